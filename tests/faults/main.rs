//! The fault suite: networks that break, stores and catalogs that fail, processes that die, in every step of a
//! collection's way. After each run the faults stop, the collection must end by itself, and everything is checked from
//! the bytes of the store. `docs/faults.md` says what is tried, what is promised and how to replay a run.

mod checks;
mod clocks;
mod drive;
mod failover;
mod heard;
mod kills;
mod late;
mod plan;
mod points;
mod processes;
mod proxy;
mod replicas;
mod room;
mod s3;
mod seeds;
mod steps;
mod world;
