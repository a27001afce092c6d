//! Ten mistakes; ../README.md says what the comments mean.

const std = @import("std");
const wit = @cImport(@cInclude("bindings/transform.h"));

const Message = wit.exports_reduct_sink_transform_transformer_message_t;
const Verdict = wit.exports_reduct_sink_transform_transformer_verdict_t;
const Failure = wit.exports_reduct_sink_transform_transformer_failure_t;

pub const panic = @import("bindings/panic.zig").panic;

const Number = union(enum) { whole: u64, real: f64 };

fn makeMistake(name: []const u8, zero: usize) !void {
    var list = [_]u64{ 1, 2, 3 };
    const none: ?u64 = if (zero == 0) null else zero;
    const number: Number = if (zero == 0) .{ .real = 1 } else .{ .whole = 1 };
    const is = std.mem.eql;
    var result: u64 = 0;
    if (is(u8, name, "panic")) @panic("my own panic"); //= panic: my own panic
    if (is(u8, name, "index")) result = list[3 + zero]; //= index: index out of bounds: index 3, len 3
    if (is(u8, name, "null")) result = none.?; //= null: attempt to use null value
    if (is(u8, name, "overflow")) result = zero - 1; //= overflow: integer overflow
    if (is(u8, name, "division")) result = 1 / zero; //= division: division by zero
    if (is(u8, name, "cast")) result = @as(u8, @intCast(zero + 256)); //= cast: integer does not fit in destination type
    if (is(u8, name, "unreachable")) unreachable; //= unreachable: reached unreachable code
    if (is(u8, name, "union_field")) result = number.whole; //= union_field: access of union field 'whole' while field 'real' is active
    if (is(u8, name, "slice")) result = list[2 + zero .. 1 + zero].len; //= slice: start index 2 is larger than end index 1
    if (is(u8, name, "error")) return error.NoCamera; //~ error: NoCamera
    std.mem.doNotOptimizeAway(result);
}

export fn exports_reduct_sink_transform_transformer_configure(_: *wit.transform_string_t, _: *wit.transform_string_t) bool {
    return true;
}

export fn exports_reduct_sink_transform_transformer_transform(message: *Message, verdict: *Verdict, failure: *Failure) bool {
    const value = message.headers.ptr[0].value.val;
    verdict.* = std.mem.zeroes(Verdict);
    var buffer: [100]u8 = undefined;
    const text = std.fmt.bufPrint(&buffer, "making the mistake {s}", .{value.ptr[0..value.len]}) catch unreachable;
    var line: wit.transform_string_t = .{ .ptr = text.ptr, .len = text.len };
    wit.reduct_sink_transform_host_log(wit.REDUCT_SINK_TRANSFORM_HOST_LEVEL_INFO, &line);
    makeMistake(value.ptr[0..value.len], @intCast(message.offset - 7)) catch |problem| {
        failure.tag = wit.REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
        wit.transform_string_dup(&failure.val.reject, @errorName(problem));
        return false;
    };
    return true;
}
