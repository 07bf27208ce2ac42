//! End-to-end scenarios: real processes over real mutual TLS, read back by foreign tools and proven by the verifier.
//! One file a scenario.

mod collect_files;
mod copy;
mod custody;
mod disks;
mod encrypted;
mod errors_are_clear;
mod fleet_order;
mod flipped_bytes;
mod foreign_readers;
mod guest_disks;
mod guest_memory;
mod handoff;
mod handoff_mutations;
mod kills;
mod memory;
mod memory_formats;
mod postgres;
mod process_memory;
mod quickstart;
mod refusals;
mod reindex;
mod responders_hands;
mod timestamps;
mod two_persons;
mod witness;
mod witness_later;
