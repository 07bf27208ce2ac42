//! What types the kernel's own variables have. BTF says it only of those that each processor has of its own, so what readers of memory
//! ask for by name stands here: a name, and the C type that Linux declares it with. A type that a kernel does not have is left out.

/// The shape of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A structure.
    Struct(&'static str),
    /// A pointer to a structure.
    Pointer(&'static str),
    /// So many structures.
    Structs(&'static str, u32),
    /// As many structures as there is room for until the next symbol.
    StructsToNext(&'static str),
    /// As many pointers as there is room for until the next symbol.
    PointersToNext,
    /// As many numbers as there is room for until the next symbol.
    NumbersToNext(&'static str),
    /// The structure without a name of its own that has a member of this name and structure.
    With(&'static str, &'static str),
    /// A number, by the name of its type in BTF.
    Number(&'static str),
    /// A pointer to characters.
    Text,
}

use Shape::{Number, NumbersToNext, Pointer, PointersToNext, Struct, Structs, StructsToNext, Text, With};

/// Name and shape; where it is declared is told by the group.
pub const KNOWN: &[(&str, Shape)] = &[
    // Processes and their memory: init/init_task.c, mm/init-mm.c, kernel/pid.c, kernel/nsproxy.c.
    ("init_task", Struct("task_struct")),
    ("init_mm", Struct("mm_struct")),
    ("init_files", Struct("files_struct")),
    ("init_fs", Struct("fs_struct")),
    ("init_cred", Struct("cred")),
    ("init_nsproxy", Struct("nsproxy")),
    ("init_pid_ns", Struct("pid_namespace")),
    ("init_user_ns", Struct("user_namespace")),
    ("init_uts_ns", Struct("uts_namespace")),
    ("init_ipc_ns", Struct("ipc_namespace")),
    ("cap_last_cap", Number("int")),
    ("pidhash_shift", Number("unsigned int")),
    ("pid_hash", Pointer("hlist_head")),
    // Modules and hooks: kernel/module/main.c, kernel/params.c, kernel/panic.c, kernel/bpf, kernel/trace.
    ("modules", Struct("list_head")),
    ("mod_tree", Struct("mod_tree_root")),
    ("module_addr_min", Number("long unsigned int")),
    ("module_addr_max", Number("long unsigned int")),
    ("module_kset", Pointer("kset")),
    ("taint_flags", StructsToNext("taint_flag")),
    ("prog_idr", Struct("idr")),
    ("map_idr", Struct("idr")),
    ("bpf_kallsyms", Struct("list_head")),
    ("ftrace_ops_list", Pointer("ftrace_ops")),
    ("ftrace_list_end", Struct("ftrace_ops")),
    ("ftrace_mod_maps", Struct("list_head")),
    ("ftrace_ops_trampoline_list", Struct("list_head")),
    ("__start___tracepoints_ptrs", NumbersToNext("int")),
    ("kallsyms_num_syms", Number("unsigned int")),
    // Tables that an intruder bends: arch/x86/entry, arch/x86/kernel/idt.c, drivers/tty.
    ("sys_call_table", PointersToNext),
    ("ia32_sys_call_table", PointersToNext),
    ("idt_table", Structs("gate_struct", 256)),
    ("tty_drivers", Struct("list_head")),
    ("keyboard_notifier_list", Struct("atomic_notifier_head")),
    // Network: net/core/net_namespace.c, net/socket.c, and what lists connections.
    ("init_net", Struct("net")),
    ("net_namespace_list", Struct("list_head")),
    ("socket_file_ops", Struct("file_operations")),
    ("sockfs_dentry_operations", Struct("dentry_operations")),
    ("tcp4_seq_afinfo", Struct("tcp_seq_afinfo")),
    ("tcp6_seq_afinfo", Struct("tcp_seq_afinfo")),
    ("udp4_seq_afinfo", Struct("udp_seq_afinfo")),
    ("udp6_seq_afinfo", Struct("udp_seq_afinfo")),
    ("udplite4_seq_afinfo", Struct("udp_seq_afinfo")),
    ("udplite6_seq_afinfo", Struct("udp_seq_afinfo")),
    ("tcp_seq_ops", Struct("seq_operations")),
    ("tcp4_seq_ops", Struct("seq_operations")),
    ("tcp6_seq_ops", Struct("seq_operations")),
    ("udp_seq_ops", Struct("seq_operations")),
    ("udp6_seq_ops", Struct("seq_operations")),
    ("raw_seq_ops", Struct("seq_operations")),
    ("raw6_seq_ops", Struct("seq_operations")),
    ("arp_seq_ops", Struct("seq_operations")),
    ("unix_seq_ops", Struct("seq_operations")),
    ("packet_seq_ops", Struct("seq_operations")),
    // Files: fs/namespace.c, fs/super.c, fs/dcache.c.
    ("mount_hashtable", Pointer("hlist_head")),
    ("super_blocks", Struct("list_head")),
    ("dentry_hashtable", Pointer("hlist_bl_head")),
    // The kernel's log: kernel/printk/printk.c.
    ("prb", Pointer("printk_ringbuffer")),
    ("log_buf", Text),
    ("log_buf_len", Number("unsigned int")),
    ("log_first_idx", Number("unsigned int")),
    ("log_next_idx", Number("unsigned int")),
    ("log_end", Number("unsigned int")),
    // Time: kernel/time/timekeeping.c, kernel/time/timer.c.
    ("tk_core", With("timekeeper", "timekeeper")),
    ("timekeeper", Struct("timekeeper")),
    ("jiffies", Number("long unsigned int")),
    ("jiffies_64", Number("long unsigned int")),
    // Memory: mm, arch/x86/mm, kernel/resource.c.
    ("iomem_resource", Struct("resource")),
    ("ioport_resource", Struct("resource")),
    ("page_offset_base", Number("long unsigned int")),
    ("vmalloc_base", Number("long unsigned int")),
    ("vmemmap_base", Number("long unsigned int")),
    ("phys_base", Number("long unsigned int")),
    ("mem_map", Pointer("page")),
    // Screens: drivers/video/fbdev.
    ("num_registered_fb", Number("int")),
    ("registered_fb", PointersToNext),
];

/// Without these nothing can be read from an image.
pub const NEEDED: [&str; 4] = ["init_task", "init_mm", "init_files", "linux_banner"];
