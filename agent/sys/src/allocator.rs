//! The C library's allocator: by default it keeps one arena per thread and holds on to freed memory, which an agent
//! with a memory promise cannot afford.

/// Makes the allocator use one arena, give large blocks their own mapping (returned to the kernel when freed) and trim
/// early. To be called once, before threads are started. Returns false where the C library does not support it (musl).
#[must_use]
pub fn bound_allocator() -> bool {
    #[cfg(target_env = "gnu")]
    {
        const LARGE_BLOCK_BYTES: libc::c_int = 256 << 10;
        // SAFETY: `mallopt` takes two integers, keeps no pointer and is called before other threads exist.
        let arenas = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        // SAFETY: as above. Setting it also turns off its dynamic growth, which would move segment buffers into the heap.
        let large = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES) };
        // SAFETY: as above.
        let trim = unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES) };
        arenas == 1 && large == 1 && trim == 1
    }
    #[cfg(not(target_env = "gnu"))]
    {
        false
    }
}

/// Gives freed memory back to the kernel. To be called when a collection has ended.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim` takes an integer and is safe to call from any thread at any time.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_allocator_accepts_the_bounds() {
        assert_eq!(super::bound_allocator(), cfg!(target_env = "gnu"));
        super::release_free_memory();
    }
}
