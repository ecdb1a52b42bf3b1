//! Names of a Skein cluster: zone model and DNS server, usable on its own.
