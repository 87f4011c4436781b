use hpc_seg::cpu::gemm::*;
fn main(){
 let threads=std::env::args().nth(1).and_then(|s|s.parse().ok()).unwrap_or(2usize);
 rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
 for &(m,n,k,g) in &[(1024,256,256,0),(1024,2048,256,1),(1024,256,2048,0),(16384,288,96,2),(16384,384,96,3),(1024,1152,384,0),(256,3072,768,0),(256,768,3072,0),(5120,256,256,0),(2048,2048,2048,0),(40,256,256,0)]{
  let a:Vec<f32>=(0..m*k).map(|i|((i*7919)%101) as f32/101.0-0.5).collect(); let b:Vec<f32>=(0..n*k).map(|i|((i*31)%97) as f32/97.0-0.5).collect(); let mut c=vec![0f32;m*n];
  let w=Weights::new(&b,n,k,None,None);
  let gamma=vec![1f32;k];
  let mut best=f64::MAX;
  for _ in 0..20{ let t=std::time::Instant::now();
   let rows= if g>=2 {Rows::Norm{x:&a,gamma:&gamma,beta:&gamma,eps:1e-6}} else {Rows::Plain{x:&a,stride:k}};
   gemm(m,rows,&w,Epilogue{activation: match g{1=>Activation::Relu,3=>Activation::Gelu,_=>Activation::None},..Default::default()},&mut c);
   best=best.min(t.elapsed().as_secs_f64());}
  if g==0 { let mut worst=0f64; for t in 0..200 { let (i,j)=((t*7919)%m,(t*104729)%n); let s:f64=(0..k).map(|e|a[i*k+e] as f64*b[j*k+e] as f64).sum(); worst=worst.max((s-c[i*n+j] as f64).abs()); } assert!(worst<1e-3,"{worst}"); }
  let mut best2=f64::MAX;
  for _ in 0..10{ let t=std::time::Instant::now();
   unsafe{gemm::gemm(m,n,k,c.as_mut_ptr(),1,n as isize,false,a.as_ptr(),1,k as isize,b.as_ptr(),k as isize,1isize,0f32,1f32,false,false,false,if threads>1 {gemm::Parallelism::Rayon(threads)} else {gemm::Parallelism::None})};
   best2=best2.min(t.elapsed().as_secs_f64());}
  println!("{m}x{n}x{k} {:.1} GFLOP/s  gemm crate {:.1}",2.0*(m*n*k) as f64/best/1e9,2.0*(m*n*k) as f64/best2/1e9);
 }
}
