//! One file per probe. Which programs attach where, and in which order alternatives are tried, is the agent's
//! probe table.

mod accept;
mod accept_entry;
mod accept_exit;
mod accept_recorded;
mod destroy;
mod empty;
mod enqueue;
mod first_read;
mod kfree_skb;
mod reset;
mod retransmit;
mod set_state;
mod threads;
