//! The one door to the brains: entered once a batch, never held across an await or a syscall.
