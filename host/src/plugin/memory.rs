//! The memory limit of one instance.
//!
//! Guarantees: the linear memories and the tables of all core modules of a component count against one limit; the instances
//! of its core modules together take at most as much again; what a plugin can make the host hold beside them (handles and
//! what is behind them) is bounded by [`MAX_HANDLES`].

use wasmtime::ResourceLimiter;

/// The most handles (streams, pollables, requests) that an instance may hold: they live in the host's memory.
pub(super) const MAX_HANDLES: usize = 256;
/// The most instances of core modules that an instance of a component may have.
const MAX_CORE_INSTANCES: usize = 256;
/// What an element of a table takes in the host's memory.
const TABLE_ELEMENT_BYTES: usize = 8;

/// The memory of one instance, over all the core modules it is made of.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    core_instances: usize,
    pub used: usize,
    /// Set once the limit refused something. The trap that follows often doesn't mention memory.
    pub refused: bool,
}

impl Memory {
    /// `core_state`: the most that an instance of one of its core modules takes, see [`super::core_state`].
    pub fn new(limit: u64, core_state: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let core_instances = (limit / core_state.max(1)).min(MAX_CORE_INSTANCES);
        Self { limit, core_instances, used: 0, refused: false }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_sub(current).saturating_add(desired);
        let granted = used <= self.limit;
        if granted {
            self.used = used;
        } else {
            self.refused = true;
        }
        granted
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired)))
    }

    fn instances(&self) -> usize {
        self.core_instances
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_all_memories_and_tables() {
        let mut memory = Memory::new(100, 1);
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 30, None).unwrap());
        assert!(!memory.memory_growing(60, 80, None).unwrap());
        assert!(memory.refused && memory.used == 90);
        assert!(memory.memory_growing(60, 70, None).unwrap(), "a smaller growth still fits");
        assert!(!memory.table_growing(0, 1, None).unwrap(), "a table's elements count, too");
        assert!(memory.memory_growing(70, 60, None).unwrap());
        assert!(memory.table_growing(0, 1, None).unwrap());
        assert_eq!(memory.used, 98);
    }

    #[test]
    fn the_state_of_core_instances_is_limited_by_their_number() {
        let instances = |core_state| Memory::new(1 << 20, core_state).instances();
        assert_eq!([1, 1 << 10, 1 << 14, 1 << 20, 1 << 21].map(instances), [256, 256, 64, 1, 0]);
    }
}
