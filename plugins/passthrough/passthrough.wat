;; The passthrough: keeps every record as it is. Written by hand as a core module; the host's build script turns it into
;; a component of reduct-sink:transform@0.1.0, so no WebAssembly toolchain is needed.
;;
;; Memory: the answers lie in the first 64 bytes, all zero for ever; everything from 64 on is scratch that the host
;; fills with a call's arguments and that the call forgets.
(module
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 64))

  ;; Hands out scratch space, growing the memory where it must. The first grow that fails traps.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32) (local $end i64) (local $have i64)
    ;; at = free rounded up to the alignment; in 64 bits no sum can overflow
    (local.set $at
      (i32.and (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
               (i32.sub (i32.const 0) (local.get $align))))
    (local.set $end (i64.add (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $size))))
    (local.set $have (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16)))
    (if (i64.gt_u (local.get $end) (local.get $have))
      (then
        (if (i64.gt_u (local.get $end) (i64.const 0xffff0000)) (then (unreachable)))
        (if (i32.eq (i32.const -1)
              (memory.grow
                (i32.wrap_i64
                  (i64.shr_u
                    (i64.add (i64.sub (local.get $end) (local.get $have)) (i64.const 0xffff))
                    (i64.const 16)))))
          (then (unreachable)))))
    (if (local.get $old-size)
      (then (memory.copy (local.get $at) (local.get $old) (local.get $old-size))))
    (global.set $free (i32.wrap_i64 (local.get $end)))
    (local.get $at))

  ;; ok: any configuration will do
  (func (export "reduct-sink:transform/transformer@0.1.0#configure")
    (param $config i32) (param $length i32) (result i32)
    (global.set $free (i32.const 64))
    (i32.const 0))

  ;; ok(keep), whatever the message says
  (func (export "reduct-sink:transform/transformer@0.1.0#transform")
    (param $topic i32) (param $topic-length i32) (param $partition i32) (param $offset i64) (param $timestamp i64)
    (param $has-key i32) (param $key i32) (param $key-length i32) (param $headers i32) (param $header-count i32)
    (param $payload-size i64) (result i32)
    (global.set $free (i32.const 64))
    (i32.const 0)))
