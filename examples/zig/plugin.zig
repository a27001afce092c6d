//! A plugin with three transforms, of which the configuration chooses one.
//!
//! The plugin owns what the host passes to it, and frees it. The bindings free what the plugin answers, so that memory
//! must come from `heap`.

const std = @import("std");
const wit = @cImport(@cInclude("bindings/transform.h"));

const Message = wit.exports_reduct_sink_transform_transformer_message_t;
const Change = wit.reduct_sink_transform_types_change_t;
const LabelChange = wit.reduct_sink_transform_types_label_change_t;
const Value = std.json.Value;

const heap = std.heap.c_allocator;

/// A panic becomes the reason of the dead letter, with its file and line.
pub const panic = @import("bindings/panic.zig").panic;

const Verdict = union(enum) { keep, drop, change: Change, split: []Change };

/// The reason for which a record is rejected; `format` makes it.
var reason: []u8 = &.{};

const Error = error{ Reject, OutOfMemory };

fn reject(comptime text: []const u8, arguments: anytype) Error {
    reason = try std.fmt.allocPrint(heap, text, arguments);
    return error.Reject;
}

const Config = struct { transform: enum { drop, label, split }, header: []const u8 = "", value: []const u8 = "" };

var config: Config = undefined;

/// Drops the records that have this header with this value.
fn drop(message: *Message) Error!Verdict {
    for (items(message.headers)) |header| {
        if (!header.value.is_some or !std.mem.eql(u8, items(header.key), config.header)) continue;
        if (std.mem.eql(u8, items(header.value.val), config.value)) return .drop;
    }
    return .keep;
}

/// Turns fields of a JSON payload into the entry and labels.
fn label(arena: std.mem.Allocator) Error!Verdict {
    var payload: wit.transform_list_u8_t = undefined;
    wit.reduct_sink_transform_host_payload(&payload);
    defer wit.transform_list_u8_free(&payload);
    const frame = std.json.parseFromSliceLeaky(
        struct { camera: Value = .null, line: Value = .null, ok: Value = .null },
        arena,
        items(payload),
        .{ .ignore_unknown_fields = true },
    ) catch |err| return reject("the payload isn't the JSON that is expected: {s}", .{@errorName(err)});

    var labels: std.ArrayList(LabelChange) = .empty;
    switch (frame.line) {
        .null => {},
        .integer => |line| try labels.append(arena, try set("line", "{d}", .{line})),
        else => return reject("\"line\" isn't a whole number", .{}),
    }
    switch (frame.ok) {
        .null => {},
        .bool => |ok| try labels.append(arena, try set("ok", "{}", .{ok})),
        else => return reject("\"ok\" isn't true or false", .{}),
    }
    var change = std.mem.zeroes(Change);
    switch (frame.camera) {
        .string => |camera| change.entry = .{ .is_some = true, .val = try owned("cameras/{s}", .{camera}) },
        else => return reject("the payload has no text \"camera\"", .{}),
    }
    change.content_type = .{ .is_some = true, .val = try owned("application/json", .{}) };
    change.labels = list(try heap.dupe(LabelChange, labels.items), @TypeOf(change.labels));
    return .{ .change = change };
}

/// Makes a record of each line of JSON in the payload.
fn split(arena: std.mem.Allocator) Error!Verdict {
    var payload: wit.transform_list_u8_t = undefined;
    wit.reduct_sink_transform_host_payload(&payload);
    defer wit.transform_list_u8_free(&payload);
    var parts: std.ArrayList(Change) = .empty;
    var lines = std.mem.splitScalar(u8, items(payload), '\n');
    var number: usize = 0;
    while (lines.next()) |line| {
        number += 1;
        if (line.len == 0) continue;
        if (!try std.json.validate(arena, line)) return reject("line {d} of the payload isn't JSON", .{number});
        var part = std.mem.zeroes(Change);
        const labels = try heap.dupe(LabelChange, &.{try set("part", "{d}", .{parts.items.len})});
        part.labels = list(labels, @TypeOf(part.labels));
        part.payload = .{ .is_some = true, .val = list(try heap.dupe(u8, line), wit.transform_list_u8_t) };
        try parts.append(arena, part);
    }
    if (parts.items.len == 0) return .drop;
    return .{ .split = try heap.dupe(Change, parts.items) };
}

// The functions of the contract.

/// Called once, before the first record.
export fn exports_reduct_sink_transform_transformer_configure(text: *wit.transform_string_t, err: *wit.transform_string_t) bool {
    // Neither the text nor what is made of it is ever freed: the plugin lives as long as its configuration.
    config = std.json.parseFromSliceLeaky(Config, heap, items(text.*), .{}) catch {
        err.* = owned("transform: it can be drop, label or split", .{}) catch unreachable;
        return false;
    };
    return true;
}

/// Decides about one record. A rejected record goes to the dead letters.
export fn exports_reduct_sink_transform_transformer_transform(
    message: *Message,
    verdict: *wit.exports_reduct_sink_transform_transformer_verdict_t,
    failure: *wit.exports_reduct_sink_transform_transformer_failure_t,
) bool {
    defer wit.exports_reduct_sink_transform_transformer_message_free(message);
    var arena = std.heap.ArenaAllocator.init(heap);
    defer arena.deinit();
    const decided = switch (config.transform) {
        .drop => drop(message),
        .label => label(arena.allocator()),
        .split => split(arena.allocator()),
    } catch |err| switch (err) {
        error.OutOfMemory => @panic("out of memory"),
        error.Reject => {
            failure.tag = wit.REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
            failure.val.reject = list(reason, wit.transform_string_t);
            return false;
        },
    };
    verdict.tag = @intFromEnum(decided);
    switch (decided) {
        .keep, .drop => {},
        .change => |change| verdict.val.change = change,
        .split => |parts| verdict.val.split = list(parts, @TypeOf(verdict.val.split)),
    }
    return true;
}

// Conversions between Zig's slices and the contract's lists and strings.

fn items(from: anytype) []std.meta.Child(@TypeOf(from.ptr)) {
    return if (from.len == 0) &.{} else from.ptr[0..from.len];
}

fn list(slice: anytype, comptime List: type) List {
    // The host wouldn't accept the address of an empty slice.
    return .{ .ptr = if (slice.len == 0) null else slice.ptr, .len = slice.len };
}

fn borrowed(text: []const u8) wit.transform_string_t {
    return .{ .ptr = @constCast(text.ptr), .len = text.len };
}

fn owned(comptime text: []const u8, arguments: anytype) error{OutOfMemory}!wit.transform_string_t {
    return list(try std.fmt.allocPrint(heap, text, arguments), wit.transform_string_t);
}

fn set(name: []const u8, comptime value: []const u8, arguments: anytype) error{OutOfMemory}!LabelChange {
    return .{ .name = try owned("{s}", .{name}), .value = .{ .is_some = true, .val = try owned(value, arguments) } };
}
