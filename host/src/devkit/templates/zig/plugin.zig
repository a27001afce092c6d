//! Drops records of one type, and labels the others by their size.
//!
//! The plugin owns what the host passes to it, and frees it. The bindings free what the plugin answers, so that memory
//! must come from `heap`.

const std = @import("std");
const wit = @cImport(@cInclude("bindings/transform.h"));

const Message = wit.exports_reduct_sink_transform_transformer_message_t;
const Verdict = wit.exports_reduct_sink_transform_transformer_verdict_t;
const Failure = wit.exports_reduct_sink_transform_transformer_failure_t;
const LabelChange = wit.reduct_sink_transform_types_label_change_t;

const heap = std.heap.c_allocator;

/// A panic becomes the reason of the dead letter, with its file and line.
pub const panic = @import("bindings/panic.zig").panic;

const Settings = struct {
    /// Records whose header `type` is this are dropped.
    drop: []const u8 = "heartbeat",
    /// Payloads of at least this many bytes are large.
    large_bytes: u64 = 1000,
};

var settings: Settings = .{};

/// Decides about one record. An error rejects it, with the error's name as the reason.
fn decide(message: *const Message, verdict: *Verdict) !void {
    if (header(message, "type")) |kind| if (std.mem.eql(u8, kind, settings.drop)) {
        verdict.tag = wit.REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP;
        return;
    };
    const size_class = if (message.payload_size >= settings.large_bytes) "large" else "small";
    const labels = try heap.alloc(LabelChange, 1);
    labels[0] = .{ .name = try owned("size_class"), .value = .{ .is_some = true, .val = try owned(size_class) } };
    verdict.tag = wit.REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
    // Fields that aren't set leave the record as it is.
    verdict.val.change.labels = .{ .ptr = labels.ptr, .len = labels.len };
}

/// The value of the first header with that key; null if there is no such header, or its value is null.
fn header(message: *const Message, key: []const u8) ?[]const u8 {
    if (message.headers.len == 0) return null;
    for (message.headers.ptr[0..message.headers.len]) |found| {
        if (!std.mem.eql(u8, bytes(found.key), key)) continue;
        return if (found.value.is_some) bytes(found.value.val) else null;
    }
    return null;
}

// The contract.

/// Called once, before the first record.
export fn exports_reduct_sink_transform_transformer_configure(text: *wit.transform_string_t, err: *wit.transform_string_t) bool {
    // Neither the text nor what is made of it is ever freed: the plugin lives as long as its configuration.
    settings = std.json.parseFromSliceLeaky(Settings, heap, bytes(text.*), .{}) catch |problem| {
        const reason = std.fmt.allocPrint(heap, "{s}: there are drop, a text, and large_bytes, a number", .{@errorName(problem)});
        err.* = owned(reason catch "out of memory") catch unreachable;
        return false;
    };
    return true;
}

export fn exports_reduct_sink_transform_transformer_transform(message: *Message, verdict: *Verdict, failure: *Failure) bool {
    defer wit.exports_reduct_sink_transform_transformer_message_free(message);
    verdict.* = std.mem.zeroes(Verdict);
    decide(message, verdict) catch |problem| {
        failure.tag = wit.REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
        failure.val.reject = owned(@errorName(problem)) catch unreachable;
        return false;
    };
    return true;
}

fn bytes(from: anytype) []const u8 {
    return if (from.len == 0) &.{} else from.ptr[0..from.len];
}

fn owned(text: []const u8) error{OutOfMemory}!wit.transform_string_t {
    const copy = try heap.dupe(u8, text);
    return .{ .ptr = copy.ptr, .len = copy.len };
}

// Tests without WebAssembly: sh test/run

const host = @cImport(@cInclude("test/host.h"));

/// The plugin's verdict about a record with this payload, and with a header `type` if one is given.
fn decideOn(config: []const u8, kind: ?[]const u8, payload: []const u8) !Verdict {
    var text = try owned(config);
    var err: wit.transform_string_t = undefined;
    if (!exports_reduct_sink_transform_transformer_configure(&text, &err)) return error.Refused;
    var message = std.mem.zeroes(Message);
    message.topic = try owned("topic");
    message.payload_size = payload.len;
    if (kind) |value| {
        const headers = try heap.alloc(wit.reduct_sink_transform_types_header_t, 1);
        const copy = try owned(value);
        headers[0] = .{ .key = try owned("type"), .value = .{ .is_some = true, .val = .{ .ptr = copy.ptr, .len = copy.len } } };
        message.headers = .{ .ptr = headers.ptr, .len = headers.len };
    }
    host.host_record.payload = payload.ptr;
    host.host_record.payload_size = payload.len;
    var verdict: Verdict = undefined;
    var failure: Failure = undefined;
    if (!exports_reduct_sink_transform_transformer_transform(&message, &verdict, &failure)) return error.Rejected;
    return verdict;
}

test "heartbeats are dropped" {
    const verdict = try decideOn("{}", "heartbeat", "");
    try std.testing.expectEqual(wit.REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP, verdict.tag);
}

test "sizes become labels" {
    inline for (.{ .{ "1234", "small" }, .{ "12345", "large" } }) |case| {
        var verdict = try decideOn("{\"large_bytes\": 5}", null, case[0]);
        defer wit.exports_reduct_sink_transform_transformer_verdict_free(&verdict);
        const label = verdict.val.change.labels.ptr[0];
        try std.testing.expectEqualStrings("size_class", bytes(label.name));
        try std.testing.expectEqualStrings(case[1], bytes(label.value.val));
    }
}

test "an unknown key is refused" {
    try std.testing.expectError(error.Refused, decideOn("{\"large\": 5}", null, ""));
}
