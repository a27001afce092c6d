//! The conformance guest in Zig; ../README.md says what it does.

const std = @import("std");
const wit = @cImport(@cInclude("bindings/transform.h"));

const Message = wit.exports_reduct_sink_transform_transformer_message_t;
const Change = wit.reduct_sink_transform_types_change_t;
const Failure = wit.exports_reduct_sink_transform_transformer_failure_t;
const LabelChange = wit.reduct_sink_transform_types_label_change_t;
const String = wit.transform_string_t;
const Bytes = wit.transform_list_u8_t;

const heap = std.heap.c_allocator;

pub const panic = std.debug.FullPanic(struct {
    fn log(text: []const u8, _: ?usize) noreturn {
        var string = list(text, String);
        wit.reduct_sink_transform_host_log(wit.REDUCT_SINK_TRANSFORM_HOST_LEVEL_ERROR, &string);
        @trap();
    }
}.log);

const Config = struct { prefix: []const u8 = "", refuse: ?[]const u8 = null, trap: bool = false };

var prefix: []const u8 = "";
var calls: u64 = 0;

const Command = enum {
    keep, part, parts, change, drop, entry, timestamp, @"content-type", payload, fill, label, unlabel, labels, reject,
    retry, trap, loop, grow, log, tell, read,
};

const commands = std.StaticStringMap(Command).initComptime(blk: {
    const all = std.enums.values(Command);
    var pairs: [all.len]struct { []const u8, Command } = undefined;
    for (all, 0..) |command, at| pairs[at] = .{ @tagName(command), command };
    break :blk pairs;
});

export fn exports_reduct_sink_transform_transformer_configure(text: *String, err: *String) bool {
    const config = std.json.parseFromSliceLeaky(Config, heap, items(text.*), .{ .ignore_unknown_fields = true }) catch
        @panic("the configuration is not as expected");
    if (config.trap) @panic("trapped as told");
    prefix = config.prefix;
    if (config.refuse) |refusal| err.* = copy(refusal, String);
    return config.refuse == null;
}

export fn exports_reduct_sink_transform_transformer_transform(
    message: *Message,
    verdict: *wit.exports_reduct_sink_transform_transformer_verdict_t,
    failure: *Failure,
) bool {
    defer wit.exports_reduct_sink_transform_transformer_message_free(message);
    calls += 1;
    var changes: std.ArrayList(Change) = .empty;
    defer changes.deinit(heap);
    changes.append(heap, std.mem.zeroes(Change)) catch unreachable;
    var split = false;
    var touched = false;
    var dropped = false;
    for (items(message.headers)) |header| {
        if (!std.mem.startsWith(u8, items(header.key), prefix)) continue;
        const name = items(header.key)[prefix.len..];
        const value: []const u8 = if (header.value.is_some) items(header.value.val) else "";
        const command = commands.get(name);
        touched = touched or (command != .keep and command != .log);
        dropped = dropped or command == .drop;
        if (command == .part or command == .parts) {
            if (!split) changes.clearRetainingCapacity();
            split = true;
            const count = if (command == .part) 1 else number(value);
            changes.appendNTimes(heap, std.mem.zeroes(Change), @intCast(count)) catch unreachable;
            continue;
        }
        var none = std.mem.zeroes(Change);
        const change = if (changes.items.len > 0) &changes.items[changes.items.len - 1] else &none;
        if (command) |known| {
            if (!run(known, value, message, change, failure)) return false;
        } else {
            add(change, name, value);
        }
    }
    verdict.tag = if (dropped) 1 else if (split) 3 else if (touched) 2 else 0;
    if (verdict.tag == 2) verdict.val.change = changes.items[0];
    if (verdict.tag == 3) verdict.val.split = copy(changes.items, @TypeOf(verdict.val.split));
    return true;
}

/// One command; false on a failure.
fn run(command: Command, value: []const u8, message: *Message, change: *Change, failure: *Failure) bool {
    switch (command) {
        .keep, .part, .parts, .change, .drop => {},
        .entry => change.entry = .{ .is_some = true, .val = copy(value, String) },
        .timestamp => change.timestamp = .{ .is_some = true, .val = number(value) },
        .@"content-type" => change.content_type = .{ .is_some = true, .val = copy(value, String) },
        .payload => change.payload = .{ .is_some = true, .val = copy(value, Bytes) },
        .fill => {
            const filled = heap.alloc(u8, @intCast(number(value))) catch @panic("there is no more memory");
            @memset(filled, 'x');
            change.payload = .{ .is_some = true, .val = list(filled, Bytes) };
        },
        .label => {
            const at = std.mem.indexOfScalar(u8, value, '=').?;
            add(change, value[0..at], value[at + 1 ..]);
        },
        .unlabel => add(change, value, null),
        .labels => for (0..@intCast(number(value))) |n| {
            var name: [24]u8 = undefined;
            add(change, std.fmt.bufPrint(&name, "l{d}", .{n}) catch unreachable, "v");
        },
        .reject, .retry => {
            failure.tag = if (command == .reject) 0 else 1;
            failure.val.reject = copy(value, String);
            return false;
        },
        .trap => @panic("trapped as told"),
        .loop => {
            var on = true;
            const still: *volatile bool = &on;
            while (still.*) {}
        },
        .grow => while (true) {
            const more = heap.alloc(u8, 1 << 20) catch @panic("there is no more memory");
            @as(*volatile u8, &more[0]).* = 1;
        },
        .log => {
            var text = list(value, String);
            wit.reduct_sink_transform_host_log(wit.REDUCT_SINK_TRANSFORM_HOST_LEVEL_INFO, &text);
        },
        .tell => {
            var told: std.ArrayList(u8) = .empty;
            tell(value, message, &told) catch @panic("there is no more memory");
            append(change, told.items);
        },
        .read => {
            var words = std.mem.splitScalar(u8, value, ' ');
            const offset = number(words.next().?);
            var part: Bytes = undefined;
            wit.reduct_sink_transform_host_read(offset, @intCast(number(words.next().?)), &part);
            append(change, items(part));
            wit.transform_list_u8_free(&part);
        },
    }
    return true;
}

fn tell(what: []const u8, message: *Message, told: *std.ArrayList(u8)) !void {
    const Thing = enum {
        topic, partition, offset, timestamp, @"payload-size", count, key, payload, entry, @"content-type", headers, labels,
    };
    switch (std.meta.stringToEnum(Thing, what) orelse @panic("there is no such thing to tell")) {
        .topic => try told.appendSlice(heap, items(message.topic)),
        .partition => try told.print(heap, "{d}", .{message.partition}),
        .offset => try told.print(heap, "{d}", .{message.offset}),
        .timestamp => try told.print(heap, "{d}", .{message.timestamp}),
        .@"payload-size" => try told.print(heap, "{d}", .{message.payload_size}),
        .count => try told.print(heap, "{d}", .{calls}),
        .key => if (message.key.is_some)
            try told.print(heap, "some:{s}", .{items(message.key.val)})
        else
            try told.appendSlice(heap, "none"),
        .payload => {
            var payload: Bytes = undefined;
            wit.reduct_sink_transform_host_payload(&payload);
            defer wit.transform_list_u8_free(&payload);
            try told.appendSlice(heap, items(payload));
        },
        .entry, .@"content-type" => |thing| {
            var text: String = undefined;
            if (thing == .entry) wit.reduct_sink_transform_host_entry(&text) else wit.reduct_sink_transform_host_content_type(&text);
            defer wit.transform_string_free(&text);
            try told.appendSlice(heap, items(text));
        },
        .headers => for (items(message.headers)) |header| {
            try told.appendSlice(heap, items(header.key));
            if (header.value.is_some) try told.print(heap, "={s}", .{items(header.value.val)});
            try told.append(heap, '\n');
        },
        .labels => {
            var labels: wit.reduct_sink_transform_host_list_label_t = undefined;
            wit.reduct_sink_transform_host_labels(&labels);
            defer wit.reduct_sink_transform_host_list_label_free(&labels);
            for (items(labels)) |label| try told.print(heap, "{s}={s}\n", .{ items(label.name), items(label.value) });
        },
    }
}

fn add(change: *Change, name: []const u8, value: ?[]const u8) void {
    const labels = heap.realloc(@constCast(items(change.labels)), change.labels.len + 1) catch unreachable;
    const text: wit.transform_option_string_t =
        if (value) |some| .{ .is_some = true, .val = copy(some, String) } else std.mem.zeroes(wit.transform_option_string_t);
    labels[labels.len - 1] = LabelChange{ .name = copy(name, String), .value = text };
    change.labels = list(labels, @TypeOf(change.labels));
}

fn append(change: *Change, more: []const u8) void {
    const before: []const u8 = if (change.payload.is_some) items(change.payload.val) else "";
    const whole = std.mem.concat(heap, u8, &.{ before, more }) catch @panic("there is no more memory");
    if (change.payload.is_some) wit.transform_list_u8_free(&change.payload.val);
    change.payload = .{ .is_some = true, .val = list(whole, Bytes) };
}

fn number(text: []const u8) u64 {
    return std.fmt.parseInt(u64, text, 10) catch @panic("not a number");
}

fn items(from: anytype) []std.meta.Child(@TypeOf(from.ptr)) {
    return if (from.len == 0) &.{} else from.ptr[0..from.len];
}

fn list(slice: anytype, comptime List: type) List {
    // An empty slice points nowhere that the host would accept.
    return .{ .ptr = if (slice.len == 0) null else @constCast(slice.ptr), .len = slice.len };
}

fn copy(slice: anytype, comptime List: type) List {
    const Item = std.meta.Child(@TypeOf(slice));
    return list(heap.dupe(Item, slice) catch @panic("there is no more memory"), List);
}
