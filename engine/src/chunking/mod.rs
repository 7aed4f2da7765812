//! Cuts bodies into content-addressed chunks.
