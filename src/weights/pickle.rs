//! Writing pickles: the few opcodes of protocol 2 (Python's `pickletools`) that a PyTorch checkpoint needs. Nothing is memoised, so the bytes of a value do not depend on
//! what stands around it.

use serde_json::Value as Json;

/// A Python value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `float`; any, NaN too
    Float(f64),
    /// `str`
    Text(String),
    /// `list`
    List(Vec<Value>),
    /// `tuple`
    Tuple(Vec<Value>),
    /// `dict`, in this order
    Dict(Vec<(Value, Value)>),
    /// `collections.OrderedDict`
    OrderedDict(Vec<(Value, Value)>),
    /// `torch.device`
    Device(&'static str),
    /// A contiguous f32 tensor of this shape: all of the storage of this number. Tensors of one storage share their values.
    Tensor(usize, Vec<usize>),
}

impl Value {
    /// A dictionary with text for keys.
    pub fn dict<K: Into<String>>(members: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Dict(members.into_iter().map(|(key, value)| (Self::Text(key.into()), value)).collect())
    }
}

impl From<&Json> for Value {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => number
                .as_i64()
                .map_or_else(|| Self::Float(number.as_f64().unwrap_or(f64::NAN)), Self::Int),
            Json::String(text) => Self::Text(text.clone()),
            Json::Array(values) => Self::List(values.iter().map(Self::from).collect()),
            Json::Object(members) => Self::dict(members.iter().map(|(key, value)| (key.clone(), Self::from(value)))),
        }
    }
}

/// The pickle of a value.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut out = vec![0x80, 2]; // PROTO 2
    put(&mut out, value);
    out.push(b'.'); // STOP
    out
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::Int(number) => int(out, *number),
        Value::Float(number) => {
            out.push(b'G'); // BINFLOAT, big-endian
            out.extend(number.to_be_bytes());
        }
        Value::Text(text) => {
            out.push(b'X'); // BINUNICODE
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::List(values) => {
            out.extend(b"]("); // EMPTY_LIST, MARK
            values.iter().for_each(|value| put(out, value));
            out.push(b'e'); // APPENDS
        }
        Value::Tuple(values) => tuple(out, values),
        Value::Dict(members) => {
            out.push(b'}'); // EMPTY_DICT
            items(out, members);
        }
        Value::OrderedDict(members) => {
            call(out, "collections", "OrderedDict", &[]);
            items(out, members);
        }
        Value::Device(name) => call(out, "torch", "device", &[Value::Text((*name).to_owned())]),
        Value::Tensor(storage, shape) => tensor(out, *storage, shape),
    }
}

fn int(out: &mut Vec<u8>, number: i64) {
    match (u8::try_from(number), i32::try_from(number)) {
        (Ok(small), _) => out.extend([b'K', small]), // BININT1
        (_, Ok(middle)) => {
            out.push(b'J'); // BININT
            out.extend(middle.to_le_bytes());
        }
        _ => {
            out.extend([0x8a, 8]); // LONG1 of 8 bytes
            out.extend(number.to_le_bytes());
        }
    }
}

fn tuple(out: &mut Vec<u8>, values: &[Value]) {
    out.push(b'('); // MARK
    values.iter().for_each(|value| put(out, value));
    out.push(b't'); // TUPLE
}

fn items(out: &mut Vec<u8>, members: &[(Value, Value)]) {
    if members.is_empty() {
        return;
    }
    out.push(b'('); // MARK
    for (key, value) in members {
        put(out, key);
        put(out, value);
    }
    out.push(b'u'); // SETITEMS
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").as_bytes()); // GLOBAL
}

fn call(out: &mut Vec<u8>, module: &str, name: &str, arguments: &[Value]) {
    global(out, module, name);
    tuple(out, arguments);
    out.push(b'R'); // REDUCE
}

/// `torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`, the storage by its persistent id.
fn tensor(out: &mut Vec<u8>, storage: usize, shape: &[usize]) {
    let whole = |sizes: &[usize]| Value::Tuple(sizes.iter().map(|&size| Value::Int(size as i64)).collect());
    let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
    global(out, "torch._utils", "_rebuild_tensor_v2");
    out.extend(b"(("); // MARK of the arguments, MARK of the id
    put(out, &Value::Text("storage".to_owned()));
    global(out, "torch", "FloatStorage");
    put(out, &Value::Text(storage.to_string()));
    put(out, &Value::Text("cpu".to_owned()));
    int(out, shape.iter().product::<usize>() as i64);
    out.extend(b"tQ"); // TUPLE, BINPERSID
    int(out, 0);
    put(out, &whole(shape));
    put(out, &whole(&strides));
    put(out, &Value::Bool(false));
    put(out, &Value::OrderedDict(Vec::new()));
    out.extend(b"tR"); // TUPLE, REDUCE
}

#[cfg(test)]
mod tests {
    use super::*;

    // python: pickletools.dis of these bytes; pickle.loads gives the value for those without torch.
    #[test]
    fn values_become_the_opcodes_of_protocol_2() {
        for (value, expected) in [
            (Value::None, &b"N"[..]),
            (Value::Bool(true), b"\x88"),
            (Value::Int(255), b"K\xff"),
            (Value::Int(-1), b"J\xff\xff\xff\xff"),
            (Value::Int(256), b"J\x00\x01\x00\x00"),
            (Value::Int(1 << 40), b"\x8a\x08\x00\x00\x00\x00\x00\x01\x00\x00"),
            (Value::Float(1.5), b"G\x3f\xf8\x00\x00\x00\x00\x00\x00"),
            (Value::Text("ä".into()), b"X\x02\x00\x00\x00\xc3\xa4"),
            (Value::List(vec![Value::None]), b"](Ne"),
            (Value::Tuple(vec![]), b"(t"),
            (Value::dict([("a", Value::Int(1))]), b"}(X\x01\x00\x00\x00aK\x01u"),
            (Value::OrderedDict(vec![]), b"ccollections\nOrderedDict\n(tR"),
            (Value::Device("cpu"), b"ctorch\ndevice\n(X\x03\x00\x00\x00cputR"),
            (
                Value::Tensor(7, vec![2, 3]),
                b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x06tQ\
                  K\x00(K\x02K\x03t(K\x03K\x01t\x89ccollections\nOrderedDict\n(tRtR",
            ),
        ] {
            assert_eq!(encode(&value), [b"\x80\x02", expected, b"."].concat(), "{value:?}");
        }
    }

    #[test]
    fn json_keeps_whole_numbers_whole() {
        let json = serde_json::json!({"a": [1, 2.5, null, true, "x"], "b": {}});
        let list = vec![
            Value::Int(1),
            Value::Float(2.5),
            Value::None,
            Value::Bool(true),
            Value::Text("x".into()),
        ];
        assert_eq!(
            Value::from(&json),
            Value::dict([("a", Value::List(list)), ("b", Value::Dict(vec![]))])
        );
    }
}
