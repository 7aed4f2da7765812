//! Says which zone holds which body.
