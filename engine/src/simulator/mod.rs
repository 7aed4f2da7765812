//! A whole ring in one thread, from one seed.
