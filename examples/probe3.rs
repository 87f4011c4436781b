use hpc_seg::{device::Device,sam2::*,weights::*,tensor::Tensor};
fn main(){
 let dev=Device::cpu(2).unwrap();
 let list=read_tensor_list("x",&std::fs::read_to_string("weights/expected/sam2_hiera_t512_tensors.json").unwrap()).unwrap();
 let cfg:Config=serde_json::from_str(&std::fs::read_to_string("weights/expected/sam2_hiera_t512_config.json").unwrap()).unwrap();
 let t=std::time::Instant::now();
 let net=Sam2::load(&formula_checkpoint(&list,4).unwrap(),cfg,&dev).unwrap();
 println!("load {:?}",t.elapsed());
 dev.install(||{
 let x=Tensor::from_slice(&dev,&[1,512,512,1],&(0..512*512).map(|i|(i%251) as f32).collect::<Vec<_>>());
 for _ in 0..5 { 
  let mut last=std::time::Instant::now(); let t=last; let mut out=String::new();
  let f=net.encoder.forward(&x,&mut |n,_|{out+=&format!("{n} {:.0} ",last.elapsed().as_secs_f64()*1e3); last=std::time::Instant::now();}).remove(0);
  println!("encode {:.0} ms: {out}",t.elapsed().as_secs_f64()*1e3);
  let t=std::time::Instant::now(); let st=net.memory_attention.start(&f.top); println!("start {:.1}",t.elapsed().as_secs_f64()*1e3); let _=st;
  let t=std::time::Instant::now(); let d=net.decoder.track(&f.top,&[&f],&net.prompt); println!("decode {:.1}",t.elapsed().as_secs_f64()*1e3);
  let part=net.memory_encoder.features(&f.top);
  let t=std::time::Instant::now(); net.remember_tracked(&d,&[&part]).unwrap(); println!("remember {:.1}",t.elapsed().as_secs_f64()*1e3);
 }});
}
