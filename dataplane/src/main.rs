//! Skein's dataplane: endpoints, overlays, eBPF programs and maps, the Docker network plugin, names.

fn main() {}
