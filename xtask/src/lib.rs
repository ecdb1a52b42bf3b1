//! Skein's own tools: setup, eBPF build, clusters on one machine, demo, tests.
