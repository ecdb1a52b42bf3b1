//! A small HTTP server that says who it is and who asked: the service of Skein's demo and tests.

fn main() {}
