//! Attacks by what an instance keeps: handles of its own resources, and what the component model's async holds.

use super::misdeeds::{Fate, Misdeed, forever, misdeed};

pub fn all() -> Vec<Misdeed> {
    use Fate::Letter;
    let set = r#"(import "$root" "[waitable-set-new]" (func $set (result i32)))"#;
    let context = r#"(import "$root" "[context-set-0]" (func $context (param i32)))"#;
    vec![
        misdeed("own-resources-hoarded", Letter(""), forever("(drop (call $new (i32.const 1)))"))
            .importing(
                r#"(import "[export]test:hostile/mine" "[resource-new]thing" (func $new (param i32) (result i32)))"#,
                &[],
                "interface mine { resource thing; }",
            )
            .exporting("mine"),
        misdeed("waitable-sets-hoarded", Letter(""), forever("(drop (call $set))")).importing(set, &[], ""),
        misdeed("async-endless", Letter("time limit"), format!("(call $context (i32.const 7)) {}", forever("")))
            .importing(context, &[], ""),
        misdeed(
            "async-memory",
            Letter("memory limit"),
            format!(
                "(call $context (i32.const 7)) {}",
                forever("(if (i32.eq (i32.const -1) (memory.grow (i32.const 64))) (then unreachable))")
            ),
        )
        .importing(context, &[], ""),
    ]
}
