//! What the `jit-arena` program is made of.
//!
//! A command line ([`args`]) names one of the commands ([`job`]): [`doctor`],
//! [`replay`] of a [`trace`], [`stress`], the same with [`python`] programs, what
//! [`trampolines`] save and what [`forks`] cost, a [`dump`] of code. `replay` and
//! `stress` install [`code`] that
//! checks itself, [`check`] every call, have the kernel asked meanwhile what is
//! writable and executable ([`audit`]) and what is in memory ([`resident`]),
//! and [`settle`] accounts at the end. What holds goes to the [`output`], in
//! [`tables`] for people; what does not is a [`failure`].

pub mod args;
pub mod audit;
pub mod bundled;
pub mod check;
pub mod code;
pub mod doctor;
pub mod dump;
pub mod failure;
pub mod forks;
pub mod human;
pub mod job;
pub mod output;
pub mod python;
pub mod replay;
pub mod resident;
pub mod settle;
pub mod stress;
pub mod tables;
pub mod trace;
pub mod trampolines;
