//! Volumes: files made byte by byte here, read and written by the product.

mod bad_files;
mod made;
mod orientation;
mod phantom;
mod reading;
mod reading_ahead;
mod shapes;
mod slices;
mod writing;
