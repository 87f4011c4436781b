use hpc_seg::cpu::{attention::*, memory_attention::*};
fn rnd(n:usize,s:u64)->Vec<f32>{ let mut z=s; (0..n).map(|_|{z=z.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); ((z>>40) as f32/16777216.0-0.5)*2.0}).collect() }
fn main(){
 let threads=std::env::args().nth(1).and_then(|s|s.parse().ok()).unwrap_or(2usize);
 rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
 let (d,m,t,w)=(256,64,7,32usize);
 let tb=Tables{width:w,height:w,d,m,times:t,rows_x:rnd((m+t)*d/2,1),rows_y:rnd((m+t)*d/2,2),rows_pointer:rnd((m+1)*d,3),position:rnd(w*w*m,4),cos:rnd(w*d/4,5),sin:rnd(w*d/4,6)};
 let q=rnd(1024*d,7); let mut out=vec![0f32;1024*m];
 let pk=rnd(100*m,8);
 for (s,r) in [(13,6),(40,6),(0,6),(13,0),(40,0)] {
  let c=rnd(1024*s*m,9); let rt=rnd(1024*6*m,10);
  let ct=vec![6;s]; let rr:Vec<usize>=(0..r).collect();
  let mem=Memory{conditioning:Slices{tokens:&c,slots:s,times:&ct},recent:Slices{tokens:&rt,slots:6,times:&rr},pointer_keys:&pk,pointer_values:&pk,start:None};
  let mut best=f64::MAX; for _ in 0..6 { let t0=std::time::Instant::now(); memory_attention(&q,&tb,&[mem],Output::Rows(&mut out)); best=best.min(t0.elapsed().as_secs_f64()); }
  let fl=1024.0*(1024.0*((s+r) as f64)*256.0 + 100.*256. + 2.0*32.*2.*128.*71.+2.*65.*256.);
  println!("mem {s}+{r}: {:.1} ms {:.1} GFLOP/s", best*1e3, fl/best/1e9);
 }
 // self attention
 for (items,n,h,e) in [(1,1024,1,256),(5,1024,1,256),(1,1024,4,96)] {
  let x=rnd(items*n*h*e*3,3); let mut o=vec![0f32;items*n*h*e]; let win=Windows::whole(n,n);
  let a=Attention{q:Heads{x:&x,stride:3*h*e},k:Heads{x:&x[h*e..],stride:3*h*e},v:Heads{x:&x[2*h*e..],stride:3*h*e},padding:None,windows:&win,items,heads:h,width:e};
  let mut best=f64::MAX; for _ in 0..6 { let t0=std::time::Instant::now(); a.run(&mut o); best=best.min(t0.elapsed().as_secs_f64()); }
  println!("attn {items}x{n} h{h} e{e}: {:.2} ms {:.1} GFLOP/s", best*1e3, 4.0*(items*n*n*h*e) as f64/best/1e9);
 }
}
