#![no_std]
//! The layout of every map that Skein's kernel programs and its dataplane share.
