//! One program for all tests of the coordinator, because linking the coordinator takes longer than most of them.

mod support;

mod audit;
mod catalog_faulty;
mod catalog_postgres;
mod catalog_sqlite;
mod catalog_transfer;
mod copy_second;
mod custody_access;
mod custody_approval;
mod custody_disposal;
mod dispatch_orders;
mod http_pages;
mod incidents;
mod init_deployment;
mod intake_hostile;
mod intake_resume;
mod ledger_faults;
mod ledger_log;
mod ledger_tiles;
mod reindex_store;
mod replica_rights;
mod replica_two;
mod rpc_authz;
mod seal_whole_way;
mod stamp_faults;
mod stamp_https;
mod store_clouds;
mod store_forged;
mod store_local;
mod store_lock;
mod store_lock_clouds;
mod store_remote;
mod store_second;
mod store_verify;
