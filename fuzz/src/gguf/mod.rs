//! The writers of GGUF files that the tests have.

#[path = "../../../tests/it/gguf/convert.rs"]
pub mod convert;
#[path = "../../../tests/it/gguf/file.rs"]
pub mod file;
#[path = "../../../tests/it/gguf/vocabulary.rs"]
pub mod vocabulary;
