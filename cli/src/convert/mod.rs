//! Items in the formats of other programs. What is written here is made from bytes whose SHA-256 was checked, and can be turned
//! back into them; the exhibit itself stays what the store holds.

pub mod e01;
