//! The specification, naively: a second opinion that shares no code with the compiler.
