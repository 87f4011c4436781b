//! The U-Net and what surrounds it.
