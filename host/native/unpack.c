/* Bounds what a compressed batch becomes in memory.
 *
 * librdkafka unpacks every batch of a response before anybody sees one of them, and knows no bound but for zstd: 1 MB of gzip, which every
 * broker lets through, becomes 1 GB, and a response of 4 MB has several of those. The linker puts the functions here (`__wrap_NAME`) in
 * the place of librdkafka's own (`__real_NAME`); host/build.rs lists them.
 *
 * Guarantees: a batch that unpacks to more than the limit, or to more records than any producer puts into one, isn't kept: it is
 * reported as one that can't be decompressed, so that `kafka.on_unreadable` decides. Of one response no more is unpacked for a partition
 * than the limit; the rest is fetched again when the partition's queue has room, and nothing of it is lost or reported.
 */

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

/* From librdkafka's rdkafka.h. */
#define BAD_COMPRESSION (-198)
/* LZ4's error codes are the largest sizes. This is its ERROR_GENERIC. */
#define LZ4_FAILED ((size_t)-1)
/* The most that librdkafka's producer puts into a batch. Java's makes batches of 16 KB by default. */
#define MOST_RECORDS 1000000
/* What librdkafka allocates for each record beside its bytes. */
#define RECORD_COST 400
/* A record of nothing: attributes, two deltas, two lengths and the number of headers take a byte each. */
#define LEAST_RECORD 6

/* librdkafka's default of receive.message.max.bytes. */
static atomic_size_t limit = 100000000;
/* For the response and the partition that this thread is at. */
static _Thread_local size_t unpacked;
static _Thread_local bool is_deferred;
/* For the LZ4 frame or the gzip stream of librdkafka that this thread is at; what else in this process unpacks something isn't bounded. */
static _Thread_local bool is_lz4, is_gzip;
static _Thread_local size_t of_frame;

void reduct_sink_limit_unpacked(size_t bytes) { atomic_store(&limit, bytes); }

/* The number of records in the body of a batch of format 2, or more than MOST_RECORDS. What isn't of that format is left to librdkafka,
 * and counts as one; records before a damaged one count, because librdkafka makes a message of each of them. */
static size_t records_in(const unsigned char *body, size_t size) {
        size_t at = 0, records = 0;
        while (at < size && records <= MOST_RECORDS) {
                uint64_t coded = 0, length;
                unsigned shift = 0;
                do {
                        if (at == size || shift > 35)
                                return records ? records : 1;
                        coded |= (uint64_t)(body[at] & 0x7f) << shift;
                        shift += 7;
                } while (body[at++] & 0x80);
                /* Zigzag: a negative length is odd. */
                length = coded >> 1;
                if ((coded & 1) || length < LEAST_RECORD || length > size - at)
                        return records ? records : 1;
                at += length;
                records++;
        }
        return records;
}

/* Whether the batch may be kept. */
static bool may_keep(const void *body, size_t size) {
        size_t most = atomic_load(&limit);
        size_t records = size > most ? 0 : records_in(body, size);
        size_t cost    = size + records * RECORD_COST;
        if (size > most || records > MOST_RECORDS)
                return false;
        if (unpacked > 0 && cost > most - (unpacked < most ? unpacked : most)) {
                is_deferred = true;
                return false;
        }
        unpacked += cost;
        return true;
}

int __real_rd_kafka_msgset_parse(void *, void *, void *, void *, const void *);
/* What a response has for one partition. */
int __wrap_rd_kafka_msgset_parse(void *response, void *request, void *partition, void *aborted, const void *version) {
        unpacked    = 0;
        is_deferred = false;
        int error   = __real_rd_kafka_msgset_parse(response, request, partition, aborted, version);
        /* The next fetch begins behind what was unpacked. */
        error       = is_deferred ? 0 : error;
        is_deferred = false;
        return error;
}

void __real_rd_kafka_consumer_err(void *, int32_t, int, int32_t, const char *, void *, int64_t, const char *, ...);
void __wrap_rd_kafka_consumer_err(void *queue, int32_t broker, int error, int32_t version, const char *topic, void *partition,
                                  int64_t offset, const char *format, ...) {
        char text[2048];
        va_list values;
        if (is_deferred)
                return;
        va_start(values, format);
        vsnprintf(text, sizeof(text), format, values);
        va_end(values);
        __real_rd_kafka_consumer_err(queue, broker, error, version, topic, partition, offset, "%s", text);
}

/* gzip: librdkafka first inflates into nothing, to learn the size. */
int __real_inflate(z_streamp stream, int flush);
int __wrap_inflate(z_streamp stream, int flush) {
        if (is_gzip && stream->total_out > atomic_load(&limit))
                return Z_DATA_ERROR;
        return __real_inflate(stream, flush);
}

void *__real_rd_gz_decompress(const void *, int, uint64_t *);
void *__wrap_rd_gz_decompress(const void *packed, int size, uint64_t *out_size) {
        is_gzip   = true;
        void *out = __real_rd_gz_decompress(packed, size, out_size);
        is_gzip   = false;
        if (out && !may_keep(out, *out_size)) {
                free(out);
                out = NULL;
        }
        return out;
}

/* Snappy says how large it will be, and librdkafka believes it. */
bool __real_rd_kafka_snappy_uncompressed_length(const char *, size_t, size_t *);
bool __wrap_rd_kafka_snappy_uncompressed_length(const char *packed, size_t size, size_t *out_size) {
        return __real_rd_kafka_snappy_uncompressed_length(packed, size, out_size) && *out_size <= atomic_load(&limit);
}

int __real_rd_kafka_snappy_uncompress(const char *, size_t, char *);
int __wrap_rd_kafka_snappy_uncompress(const char *packed, size_t size, char *out) {
        size_t out_size;
        int error = __real_rd_kafka_snappy_uncompress(packed, size, out);
        if (!error && __real_rd_kafka_snappy_uncompressed_length(packed, size, &out_size) && !may_keep(out, out_size))
                error = -1;
        return error;
}

/* What the chunks of snappy-java say that they will be together, each behind its length of four bytes; or more than the limit. */
static size_t said_by_chunks(const unsigned char *packed, size_t size) {
        size_t most = atomic_load(&limit), sum = 0, at = 0;
        while (size - at >= 4 && sum <= most) {
                size_t length = (size_t)packed[at] << 24 | packed[at + 1] << 16 | packed[at + 2] << 8 | packed[at + 3];
                size_t said;
                at += 4;
                /* librdkafka refuses such a batch with its own words. */
                if (length > size - at || !__real_rd_kafka_snappy_uncompressed_length((const char *)packed + at, length, &said))
                        break;
                sum += said;
                at += length;
        }
        return sum;
}

/* librdkafka allocates the sum of what the chunks say before it unpacks one, and aborts the process where it gets no memory. */
char *__real_rd_kafka_snappy_java_uncompress(const char *, size_t, size_t *, char *, size_t);
char *__wrap_rd_kafka_snappy_java_uncompress(const char *packed, size_t size, size_t *out_size, char *text, size_t text_size) {
        if (said_by_chunks((const unsigned char *)packed, size) > atomic_load(&limit)) {
                snprintf(text, text_size, "it unpacks to too much");
                return NULL;
        }
        char *out = __real_rd_kafka_snappy_java_uncompress(packed, size, out_size, text, text_size);
        if (out && !may_keep(out, *out_size)) {
                snprintf(text, text_size, "it unpacks to too much");
                free(out);
                out = NULL;
        }
        return out;
}

size_t __real_LZ4F_decompress(void *, void *, size_t *, const void *, size_t *, const void *);
size_t __wrap_LZ4F_decompress(void *frame, void *out, size_t *out_size, const void *in, size_t *in_size, const void *options) {
        size_t left = __real_LZ4F_decompress(frame, out, out_size, in, in_size, options);
        if (!is_lz4)
                return left;
        of_frame += *out_size;
        return of_frame > atomic_load(&limit) ? LZ4_FAILED : left;
}

int __real_rd_kafka_lz4_decompress(void *, int, int64_t, char *, size_t, void **, size_t *);
int __wrap_rd_kafka_lz4_decompress(void *broker, int proper, int64_t offset, char *in, size_t size, void **out, size_t *out_size) {
        of_frame  = 0;
        is_lz4    = true;
        int error = __real_rd_kafka_lz4_decompress(broker, proper, offset, in, size, out, out_size);
        is_lz4    = false;
        if (!error && !may_keep(*out, *out_size)) {
                free(*out);
                *out  = NULL;
                error = BAD_COMPRESSION;
        }
        return error;
}

int __real_rd_kafka_zstd_decompress(void *, char *, size_t, void **, size_t *);
int __wrap_rd_kafka_zstd_decompress(void *broker, char *in, size_t size, void **out, size_t *out_size) {
        int error = __real_rd_kafka_zstd_decompress(broker, in, size, out, out_size);
        if (!error && !may_keep(*out, *out_size)) {
                free(*out);
                *out  = NULL;
                error = BAD_COMPRESSION;
        }
        return error;
}
