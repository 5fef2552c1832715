//! One test per row of what people who use `doveadm sync` and `doveadm backup` suffer from, as far as it is about two local
//! places. Each is named after its row and fails where we behave as the row describes.

#[allow(dead_code, reason = "two targets share it, and neither uses all")]
mod lab;

mod reproduced;
