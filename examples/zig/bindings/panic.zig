//! What a plugin does when it panics: it writes the panic's text to the host's log, from where it becomes the reason of the
//! dead letter, and traps. The host adds the file and the line that panicked, which is why this function is not in the
//! author's own files.

const std = @import("std");
const wit = @cImport(@cInclude("bindings/transform.h"));

pub const panic = std.debug.FullPanic(struct {
    fn log(text: []const u8, _: ?usize) noreturn {
        var string: wit.transform_string_t = .{ .ptr = @constCast(text.ptr), .len = text.len };
        wit.reduct_sink_transform_host_log(wit.REDUCT_SINK_TRANSFORM_HOST_LEVEL_ERROR, &string);
        @trap();
    }
}.log);
