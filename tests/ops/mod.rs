//! Every op against plain loops in f64, over its own table of cases.

mod attention;
mod average_pool;
mod components;
mod conv;
mod conv3d;
mod depthwise;
mod ensemble;
mod instance_norm;
mod levels;
mod linear;
mod mask_product;
mod max_pool;
mod memory_attention;
mod memory_mask;
mod nearest_add;
mod norm;
mod normalise;
mod normed_conv3d;
mod residual;
mod resize;
mod resize_nearest;
mod resize_u8;
mod rope;
mod rows;
mod take;
mod upscale;
