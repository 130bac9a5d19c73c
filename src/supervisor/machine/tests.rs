//! The machine on its own: every rule, and random sequences of inputs.
