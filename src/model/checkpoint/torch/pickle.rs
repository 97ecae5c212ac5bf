//! A parser for the pickle of a state dict.
//!
//! Invariant: nothing is imported, called or constructed. Names of Python objects stay names; a call is kept as data if it is
//! one of the few by which tensors are written, and refused by name otherwise. Memory is linear in the length of the pickle:
//! values are in one list and refer to each other by index, so neither sharing nor nesting costs more.

use std::collections::HashMap;

/// The index of a value.
pub(crate) type ValueId = usize;

/// A value of a pickle.
#[derive(Debug)]
pub(crate) enum Node {
    /// `None`, a boolean, a set of attributes: values that tensors do not need.
    Other,
    Int(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    /// `module.name`.
    Global(String),
    /// A call that was not made: the indices of the function and of its arguments.
    Call(ValueId, ValueId),
    /// A storage, given by its persistent id.
    Storage(ValueId),
}

/// The calls by which tensors are written.
pub(crate) const TENSOR: &str = "torch._utils._rebuild_tensor_v2";
pub(crate) const PARAMETER: &str = "torch._utils._rebuild_parameter";
pub(crate) const SUBCLASS: &str = "torch._tensor._rebuild_from_type_v2";
const ORDERED: &str = "collections.OrderedDict";

/// The values of a pickle, and the one that it represents.
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    top: ValueId,
}

impl Pickle {
    /// The value that the pickle represents.
    pub fn top(&self) -> &Node {
        self.get(self.top)
    }

    /// The index of that value.
    pub fn root(&self) -> ValueId {
        self.top
    }

    /// A value; all indices come from the parser, so it exists.
    pub fn get(&self, at: ValueId) -> &Node {
        self.nodes.get(at).unwrap_or(&Node::Other)
    }

    /// The elements of a tuple.
    pub fn tuple(&self, at: ValueId) -> Option<&[ValueId]> {
        let Node::Tuple(items) = self.get(at) else {
            return None;
        };
        Some(items)
    }

    /// A tuple of nonnegative integers.
    pub fn sizes(&self, at: ValueId) -> Option<Vec<usize>> {
        self.tuple(at)?.iter().map(|i| self.size(*i)).collect()
    }

    /// A nonnegative integer.
    pub fn size(&self, at: ValueId) -> Option<usize> {
        let Node::Int(n) = self.get(at) else {
            return None;
        };
        usize::try_from(*n).ok()
    }

    pub fn text(&self, at: ValueId) -> Option<&str> {
        let Node::Text(text) = self.get(at) else {
            return None;
        };
        Some(text)
    }

    /// A number, integer or floating-point.
    pub fn number(&self, at: ValueId) -> Option<f64> {
        if let Node::Int(n) = self.get(at) {
            return Some(*n as f64);
        }
        let Node::Float(x) = self.get(at) else {
            return None;
        };
        Some(*x)
    }

    /// The key-value pairs of a dict.
    pub fn dict(&self, at: ValueId) -> Option<&[(ValueId, ValueId)]> {
        let Node::Dict(pairs) = self.get(at) else {
            return None;
        };
        Some(pairs)
    }

    /// The name of a Python object.
    pub fn global(&self, at: ValueId) -> Option<&str> {
        let Node::Global(name) = self.get(at) else {
            return None;
        };
        Some(name)
    }
}

/// Parses a pickle; the error says what is wrong, without the path.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while !machine.step()? {}
    let top = machine.pop()?;
    Ok(Pickle {
        nodes: machine.nodes,
        top,
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<ValueId>,
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let bytes = self
            .at
            .checked_add(count)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or("its pickle ends early")?;
        self.at += count;
        Ok(bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.fixed::<1>()?[0])
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|b| *b == b'\n')
            .ok_or("its pickle ends early")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length])
            .map_err(|_| "its pickle has a name that is not text".into())
    }

    fn text(&mut self, length: usize) -> Result<Node, String> {
        let text = self.take(length)?;
        Ok(Node::Text(String::from_utf8_lossy(text).into_owned()))
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    fn pop(&mut self) -> Result<ValueId, String> {
        // Values below a mark belong to the instruction that set it.
        if self.marks.last().is_some_and(|m| *m >= self.stack.len()) {
            return Err("its pickle pops from an empty stack".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "its pickle pops from an empty stack".into())
    }

    fn since_mark(&mut self) -> Result<Vec<ValueId>, String> {
        let mark = self
            .marks
            .pop()
            .ok_or("its pickle has no mark to return to")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Result<Node, String> {
        let items = (0..count).map(|_| self.pop());
        let mut items = items.collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(Node::Tuple(items))
    }

    fn last(&mut self) -> Result<&mut Node, String> {
        let at = *self
            .stack
            .last()
            .ok_or("its pickle adds items to nothing")?;
        self.nodes
            .get_mut(at)
            .ok_or_else(|| "its pickle adds items to nothing".into())
    }

    fn fill_dict(&mut self, items: &[ValueId]) -> Result<(), String> {
        if let Node::Dict(pairs) = self.last()?
            && items.len().is_multiple_of(2)
        {
            pairs.extend(items.chunks_exact(2).map(|p| (p[0], p[1])));
            return Ok(());
        }
        Err("its pickle puts pairs into something that is not a dict".into())
    }

    fn fill_list(&mut self, items: &[ValueId]) -> Result<(), String> {
        let Node::List(list) = self.last()? else {
            return Err("its pickle appends to something that is not a list".into());
        };
        list.extend_from_slice(items);
        Ok(())
    }

    /// Turns a call into data, or refuses it by name.
    fn call(&mut self) -> Result<Node, String> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let Some(Node::Global(name)) = self.nodes.get(callable) else {
            return Err("it calls something that is not a name".into());
        };
        match name.as_str() {
            ORDERED => Ok(Node::Dict(Vec::new())),
            TENSOR | PARAMETER | SUBCLASS => Ok(Node::Call(callable, args)),
            other => Err(format!(
                "it asks to call `{other}`, which no checkpoint of tensors needs"
            )),
        }
    }

    /// An integer of `length` bytes.
    fn long(&mut self, length: usize) -> Result<Node, String> {
        let digits = self.take(length)?;
        if length > 8 {
            return Err("its pickle has a number beyond 64 bits".into());
        }
        let negative = digits.last().is_some_and(|b| *b >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..length].copy_from_slice(digits);
        Ok(Node::Int(i64::from_le_bytes(wide)))
    }

    fn get(&mut self, id: u32) -> Result<(), String> {
        let at = *self
            .memo
            .get(&id)
            .ok_or("its pickle recalls something that it did not store")?;
        self.stack.push(at);
        Ok(())
    }

    fn put(&mut self, id: u32) -> Result<(), String> {
        let at = *self
            .stack
            .last()
            .ok_or("its pickle stores a value that does not exist")?;
        self.memo.insert(id, at);
        Ok(())
    }

    /// Executes one instruction; true at the end. The instructions are named as in Python's `pickletools`.
    fn step(&mut self) -> Result<bool, String> {
        let code = self.byte()?;
        if let Some(node) = self.value(code)? {
            self.push(node);
            return Ok(false);
        }
        match code {
            0x80 => self.take(1).map(drop)?, // PROTO
            0x95 => self.take(8).map(drop)?, // FRAME
            b'q' => {
                let id = u32::from(self.byte()?);
                self.put(id)?;
            }
            b'r' => {
                let id = u32::from_le_bytes(self.fixed()?);
                self.put(id)?;
            }
            0x94 => self.put(self.memo.len() as u32)?, // MEMOIZE
            b'h' => {
                let id = u32::from(self.byte()?);
                self.get(id)?;
            }
            b'j' => {
                let id = u32::from_le_bytes(self.fixed()?);
                self.get(id)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.fill_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.fill_dict(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.fill_list(&[item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.fill_list(&items)?;
            }
            b'b' => {
                self.pop()?;
                if !matches!(self.last()?, Node::Dict(_) | Node::Call(..)) {
                    return Err("it sets the attributes of something that is not a tensor".into());
                }
            }
            b'.' => return Ok(true),
            code => {
                return Err(format!(
                    "its pickle has the instruction 0x{code:02x}, which no checkpoint of tensors needs"
                ));
            }
        }
        Ok(false)
    }

    /// The value that an instruction pushes, if that is all it does.
    fn value(&mut self, code: u8) -> Result<Option<Node>, String> {
        Ok(Some(match code {
            b'c' => Node::Global(format!("{}.{}", self.line()?, self.line()?)),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?); // STACK_GLOBAL
                match (self.nodes.get(module), self.nodes.get(name)) {
                    (Some(Node::Text(m)), Some(Node::Text(n))) if m.len() + n.len() < 1024 => {
                        Node::Global(format!("{m}.{n}"))
                    }
                    _ => return Err("its pickle has a name that is not text".into()),
                }
            }
            b')' => Node::Tuple(Vec::new()),
            b't' => Node::Tuple(self.since_mark()?),
            code @ 0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b'}' => Node::Dict(Vec::new()),
            b']' => Node::List(Vec::new()),
            b'X' => {
                let length = u32::from_le_bytes(self.fixed()?);
                self.text(length as usize)?
            }
            0x8c => {
                let length = self.byte()?;
                self.text(usize::from(length))?
            }
            b'K' => Node::Int(i64::from(self.byte()?)),
            b'M' => Node::Int(i64::from(u16::from_le_bytes(self.fixed()?))),
            b'J' => Node::Int(i64::from(i32::from_le_bytes(self.fixed()?))),
            0x8a => {
                let length = usize::from(self.byte()?); // LONG1
                self.long(length)?
            }
            0x8b => {
                let length = i32::from_le_bytes(self.fixed()?); // LONG4
                let length = usize::try_from(length)
                    .map_err(|_| "its pickle has a number of negative length")?;
                self.long(length)?
            }
            b'I' | b'L' => match self.line()? {
                "00" | "01" => Node::Other,
                line => {
                    let number = line.strip_suffix('L').unwrap_or(line).parse();
                    Node::Int(number.map_err(|_| "its pickle has a number beyond 64 bits")?)
                }
            },
            b'G' => Node::Float(f64::from_be_bytes(self.fixed()?)),
            b'F' => {
                let value = self.line()?.parse();
                Node::Float(value.map_err(|_| "its pickle has a number that cannot be read")?)
            }
            0x88 | 0x89 | b'N' => Node::Other,
            b'Q' => Node::Storage(self.pop()?),
            b'R' | 0x81 => self.call()?,
            _ => return Ok(None),
        }))
    }
}
