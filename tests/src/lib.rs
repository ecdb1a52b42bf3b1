//! Skein's end-to-end suites, against a real cluster of network namespaces.
