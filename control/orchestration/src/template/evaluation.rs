//! What a template's tree comes to.

use super::{
    Context, OUTPUT_MAX, TemplateError,
    functions::{self, Function},
    parser::{Command, Node, Operand, Pipeline},
    value::Value,
};

/// The most work that a template makes: bytes of all that its commands come to, of which each counts at least
/// [`STEP`]. Ranges in ranges would else go on for years.
const WORK_MAX: usize = 64 << 20;
/// What a step costs at least, in bytes that could be copied meanwhile.
const STEP: usize = 64;

/// Evaluates a template.
pub(super) fn evaluate(nodes: &[Node], context: &Context) -> Result<String, TemplateError> {
    let root = context.root();
    let mut evaluation = Evaluation {
        context,
        variables: vec![(String::new(), root.clone())],
        out: String::new(),
        work: 0,
    };
    evaluation.run(nodes, &root)?;
    Ok(evaluation.out)
}

/// How a part ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Evaluation<'a> {
    context: &'a Context,
    /// The innermost last.
    variables: Vec<(String, Value)>,
    out: String,
    work: usize,
}

impl Evaluation<'_> {
    fn spend(&mut self, bytes: usize) -> Result<(), TemplateError> {
        self.work = self.work.saturating_add(STEP).saturating_add(bytes);
        match self.work > WORK_MAX {
            true => Err(TemplateError::TooMuch),
            false => Ok(()),
        }
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        self.spend(text.len())?;
        if self.out.len() + text.len() > OUTPUT_MAX {
            return Err(TemplateError::TooLong);
        }
        self.out.push_str(text);
        Ok(())
    }

    fn run(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let outside = self.variables.len();
            let flow = match node {
                Node::Text(text) => {
                    self.write(text)?;
                    continue;
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    match pipeline.variables.first() {
                        Some(name) => self.set(name, value, pipeline.declares),
                        None => self.write(&value.to_string())?,
                    }
                    // What it declares holds up to the end of the block.
                    continue;
                }
                Node::If {
                    branches,
                    otherwise,
                } => self.choose(branches, otherwise, dot)?,
                Node::With {
                    of,
                    then,
                    otherwise,
                } => {
                    let value = self.pipeline(of, dot)?;
                    self.set_all(of, std::slice::from_ref(&value));
                    match value.is_true() {
                        true => self.run(then, &value)?,
                        false => self.run(otherwise, dot)?,
                    }
                }
                Node::Range {
                    over,
                    each,
                    otherwise,
                } => self.range(over, each, otherwise, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            self.variables.truncate(outside);
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn choose(
        &mut self,
        branches: &[(Pipeline, Vec<Node>)],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        for (condition, then) in branches {
            let value = self.pipeline(condition, dot)?;
            self.set_all(condition, std::slice::from_ref(&value));
            if value.is_true() {
                return self.run(then, dot);
            }
        }
        self.run(otherwise, dot)
    }

    fn range(
        &mut self,
        over: &Pipeline,
        each: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let value = self.pipeline(over, dot)?;
        let Value::Map(map) = value else {
            return Err(TemplateError::NoRange(value.kind()));
        };
        for (key, item) in &*map {
            self.spend(item.len())?;
            let (key, item) = (Value::from(key.as_str()), Value::from(item.as_str()));
            let outside = self.variables.len();
            match over.variables.len() {
                2 => self.set_all(over, &[key, item.clone()]),
                _ => self.set_all(over, std::slice::from_ref(&item)),
            }
            let flow = self.run(each, &item)?;
            self.variables.truncate(outside);
            if flow == Flow::Break {
                break;
            }
        }
        match map.is_empty() {
            true => self.run(otherwise, dot),
            false => Ok(Flow::Next),
        }
    }

    /// Sets the variables of a pipeline, in their order.
    fn set_all(&mut self, pipeline: &Pipeline, values: &[Value]) {
        for (name, value) in pipeline.variables.iter().zip(values) {
            self.set(name, value.clone(), pipeline.declares);
        }
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) {
        let mut known = self.variables.iter_mut().rev();
        match known.find(|(own, _)| own == name).filter(|_| !declares) {
            Some((_, own)) => *own = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            let value = match command {
                Command::Value(operand) => self.operand(operand, dot)?,
                Command::Call(function, operands) => self.call(*function, operands, last, dot)?,
            };
            let bytes = match &value {
                Value::Text(text) => text.len(),
                _ => 0,
            };
            self.spend(bytes)?;
            last = Some(value);
        }
        last.ok_or(TemplateError::Empty)
    }

    fn call(
        &mut self,
        function: Function,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let mut arguments = Vec::with_capacity(operands.len() + 1);
        let mut bytes = 0;
        for operand in operands {
            let argument = self.operand(operand, dot)?;
            let is_decided = match function {
                Function::And => !argument.is_true(),
                Function::Or => argument.is_true(),
                _ => false,
            };
            if is_decided {
                return Ok(argument);
            }
            if let Value::Text(text) = &argument {
                bytes += text.len();
            }
            if bytes > OUTPUT_MAX {
                return Err(TemplateError::TooLong);
            }
            arguments.push(argument);
        }
        arguments.extend(last);
        functions::call(function, &arguments, self.context)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        self.spend(0)?;
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(names) => dot.field(names),
            Operand::Variable(name, names) => {
                let mut known = self.variables.iter().rev();
                let found = known.find(|(own, _)| own == name);
                let unknown = || TemplateError::UnknownVariable(format!("${name}"));
                found.ok_or_else(unknown)?.1.field(names)
            }
            Operand::Nested(pipeline, names) => self.pipeline(pipeline, dot)?.field(names),
        }
    }
}
