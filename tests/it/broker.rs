//! The broker brain, driven packet by packet in virtual time against a disk that can lose what is not durable.

mod connect;
mod crash;
mod deliver;
mod disk;
mod publish;
mod retained;
mod sessions;
mod subscribe;
mod wills;
mod world;
