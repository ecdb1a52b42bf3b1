//! From a template to its tree. What Go finds wrong before it evaluates anything, is found here.

use super::{
    TemplateError,
    functions::Function,
    syntax::{Piece, Token, describe, pieces, tokens},
    value::Value,
};

/// The deepest that parentheses nest in an action, and blocks in a template: no template that a person writes comes
/// near, and each of them takes stack.
pub(super) const DEPTH_MAX: usize = 32;

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    /// What it comes to is written, unless it only sets a variable.
    Action(Pipeline),
    /// The first branch whose condition is true, or else the last part.
    If {
        branches: Vec<(Pipeline, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    /// For each item.
    Range {
        over: Pipeline,
        each: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// With another dot.
    With {
        of: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// Commands, of which each gets what the one before comes to as its last argument.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    /// The variables that are set to what it comes to, or to what each item of it is.
    pub variables: Vec<String>,
    /// Whether they are new.
    pub declares: bool,
    pub commands: Vec<Command>,
}

/// A value, or a call.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Value(Operand),
    Call(Function, Vec<Operand>),
}

/// What a function can be given.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Literal(Value),
    /// Of the dot.
    Field(Vec<String>),
    /// A variable, and what stands behind it.
    Variable(String, Vec<String>),
    /// What is in parentheses, and what stands behind them.
    Nested(Box<Pipeline>, Vec<String>),
}

/// The tree of a template; whether its functions may read what is attached to a task.
pub(super) fn parse(text: &str, with_attached: bool) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        pieces: pieces(text)?.into_iter(),
        with_attached,
        // What the template is evaluated with.
        variables: vec![String::new()],
        depth: 0,
        ranges: 0,
    };
    match parser.list()? {
        (nodes, None) => Ok(nodes),
        (_, Some(end)) => Err(TemplateError::Unexpected(end.word().into())),
    }
}

/// What ends a part of a block.
enum End {
    Block,
    Else,
    /// `else if …`, with its condition.
    ElseIf(Vec<Token>),
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::Block => "end",
            Self::Else | Self::ElseIf(_) => "else",
        }
    }
}

struct Parser<'a> {
    pieces: std::vec::IntoIter<Piece<'a>>,
    with_attached: bool,
    /// Those that can be read now.
    variables: Vec<String>,
    /// Of blocks that are open.
    depth: usize,
    /// How many of them are ranges.
    ranges: usize,
}

impl Parser<'_> {
    /// Parts up to what ends them; `None`: the template's end.
    fn list(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(action) => tokens(action)?,
            };
            let word = match action.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            let rest = action.get(1..).unwrap_or_default();
            match word {
                "end" => return Ok((nodes, Some(alone(rest, End::Block)?))),
                "else" => {
                    let end = match rest.first() {
                        Some(Token::Word(word)) if word == "if" => End::ElseIf(rest[1..].to_vec()),
                        _ => alone(rest, End::Else)?,
                    };
                    return Ok((nodes, Some(end)));
                }
                "if" | "range" | "with" => {
                    let node = self.block(word, rest)?;
                    nodes.push(node);
                }
                "break" | "continue" if self.ranges == 0 => {
                    return Err(TemplateError::Unexpected(word.to_owned()));
                }
                "break" => nodes.push(alone(rest, Node::Break)?),
                "continue" => nodes.push(alone(rest, Node::Continue)?),
                "define" | "template" | "block" => {
                    return Err(TemplateError::Unsupported(word.to_owned()));
                }
                _ => nodes.push(Node::Action(self.pipeline(&action, false)?)),
            }
        }
        Ok((nodes, None))
    }

    fn block(&mut self, word: &str, rest: &[Token]) -> Result<Node, TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TemplateError::TooDeep);
        }
        let is_range = word == "range";
        let outside = self.variables.len();
        let of = self.pipeline(rest, is_range)?;
        self.ranges += usize::from(is_range);
        let (then, end) = self.list()?;
        self.ranges -= usize::from(is_range);
        let node = match word {
            "if" => self.branches((of, then), end)?,
            _ => {
                let otherwise = match end {
                    None => return Err(TemplateError::NoEnd),
                    Some(End::Block) => Vec::new(),
                    Some(End::Else) => {
                        if is_range {
                            // There is no item.
                            self.variables.truncate(outside);
                        }
                        self.last()?
                    }
                    Some(end @ End::ElseIf(_)) => {
                        return Err(TemplateError::Unexpected(end.word().into()));
                    }
                };
                match is_range {
                    true => Node::Range {
                        over: of,
                        each: then,
                        otherwise,
                    },
                    false => Node::With {
                        of,
                        then,
                        otherwise,
                    },
                }
            }
        };
        self.variables.truncate(outside);
        self.depth -= 1;
        Ok(node)
    }

    /// What follows the first branch of an `if`. Conditions see the variables of those before.
    fn branches(
        &mut self,
        first: (Pipeline, Vec<Node>),
        mut end: Option<End>,
    ) -> Result<Node, TemplateError> {
        let mut branches = vec![first];
        let otherwise = loop {
            match end {
                None => return Err(TemplateError::NoEnd),
                Some(End::Block) => break Vec::new(),
                Some(End::Else) => break self.last()?,
                Some(End::ElseIf(condition)) => {
                    let condition = self.pipeline(&condition, false)?;
                    let (then, next) = self.list()?;
                    branches.push((condition, then));
                    end = next;
                }
            }
        };
        Ok(Node::If {
            branches,
            otherwise,
        })
    }

    /// The last part of a block.
    fn last(&mut self) -> Result<Vec<Node>, TemplateError> {
        match self.list()? {
            (nodes, Some(End::Block)) => Ok(nodes),
            (_, Some(end)) => Err(TemplateError::Unexpected(end.word().into())),
            (_, None) => Err(TemplateError::NoEnd),
        }
    }

    /// All of an action, or what stands behind its first word.
    fn pipeline(&mut self, tokens: &[Token], is_range: bool) -> Result<Pipeline, TemplateError> {
        let (variables, declares, tokens) = declaration(tokens, is_range)?;
        for name in variables.iter().filter(|_| !declares) {
            self.check_variable(name)?;
        }
        let mut action = Action {
            tokens,
            at: 0,
            depth: 0,
            parser: self,
        };
        let commands = action.commands()?;
        if let Some(token) = action.peek() {
            return Err(TemplateError::Unexpected(describe(token)));
        }
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    fn check_variable(&self, name: &String) -> Result<(), TemplateError> {
        match self.variables.contains(name) {
            true => Ok(()),
            false => Err(TemplateError::UnknownVariable(format!("${name}"))),
        }
    }
}

/// What an action of one word stands for, if it is one.
fn alone<T>(rest: &[Token], stands_for: T) -> Result<T, TemplateError> {
    match rest.first() {
        None => Ok(stands_for),
        Some(token) => Err(TemplateError::Unexpected(describe(token))),
    }
}

/// The variables that an action sets, whether they are new, and the rest of it.
fn declaration(
    tokens: &[Token],
    is_range: bool,
) -> Result<(Vec<String>, bool, &[Token]), TemplateError> {
    let name_of = |token: &Token| match token {
        Token::Variable(name, fields) if fields.is_empty() && !name.is_empty() => {
            Some(name.clone())
        }
        _ => None,
    };
    let (names, rest) = match tokens {
        [first, Token::Comma, second, rest @ ..] if is_range => ([first, second].to_vec(), rest),
        [first, rest @ ..] => (vec![first], rest),
        [] => return Ok((Vec::new(), false, tokens)),
    };
    let declares = match rest.first() {
        Some(Token::Declare) => true,
        Some(Token::Assign) => false,
        _ => return Ok((Vec::new(), false, tokens)),
    };
    let set = names.iter().map(|token| {
        let unexpected = || TemplateError::Unexpected(describe(token));
        name_of(token).ok_or_else(unexpected)
    });
    Ok((set.collect::<Result<_, _>>()?, declares, &rest[1..]))
}

/// One action's tokens, from the left to the right.
struct Action<'a, 'p, 't> {
    tokens: &'a [Token],
    at: usize,
    /// Of the parentheses that are open.
    depth: usize,
    parser: &'p Parser<'t>,
}

impl<'a> Action<'a, '_, '_> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    /// Commands up to the end or a `)`.
    fn commands(&mut self) -> Result<Vec<Command>, TemplateError> {
        let mut commands = vec![self.command()?];
        while self.peek() == Some(&Token::Pipe) {
            self.at += 1;
            match self.command()? {
                call @ Command::Call(..) => commands.push(call),
                Command::Value(_) => return Err(TemplateError::NoFunction),
            }
        }
        Ok(commands)
    }

    /// An operand, or a function and its operands.
    fn command(&mut self) -> Result<Command, TemplateError> {
        let Some(Token::Word(word)) = self.peek() else {
            return Ok(Command::Value(self.operand()?));
        };
        if constant(word).is_some() {
            return Ok(Command::Value(self.operand()?));
        }
        let function = Function::of_name(word, self.parser.with_attached)?;
        self.at += 1;
        let mut operands = Vec::new();
        while !matches!(self.peek(), None | Some(Token::Close(_) | Token::Pipe)) {
            operands.push(self.operand()?);
        }
        Ok(Command::Call(function, operands))
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let token = self.peek().ok_or(TemplateError::Empty)?;
        self.at += 1;
        match token {
            Token::Literal(value) => Ok(Operand::Literal(value.clone())),
            Token::Field(names) => Ok(Operand::Field(names.clone())),
            Token::Variable(name, names) => {
                self.parser.check_variable(name)?;
                Ok(Operand::Variable(name.clone(), names.clone()))
            }
            Token::Word(word) => match constant(word) {
                Some(value) => Ok(Operand::Literal(value)),
                // As in Go, a function without operands is one, too.
                None => {
                    let function = Function::of_name(word, self.parser.with_attached)?;
                    let call = Command::Call(function, Vec::new());
                    Ok(Operand::Nested(Box::new(nested(vec![call])), Vec::new()))
                }
            },
            Token::Open => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(TemplateError::TooDeep);
                }
                let commands = self.commands()?;
                self.depth -= 1;
                match self.peek() {
                    Some(Token::Close(names)) => {
                        self.at += 1;
                        Ok(Operand::Nested(Box::new(nested(commands)), names.clone()))
                    }
                    Some(token) => Err(TemplateError::Unexpected(describe(token))),
                    None => Err(TemplateError::Unexpected("(".into())),
                }
            }
            Token::Close(_) | Token::Pipe | Token::Declare | Token::Assign | Token::Comma => {
                Err(TemplateError::Unexpected(describe(token)))
            }
        }
    }
}

fn constant(word: &str) -> Option<Value> {
    match word {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ => None,
    }
}

fn nested(commands: Vec<Command>) -> Pipeline {
    Pipeline {
        variables: Vec::new(),
        declares: false,
        commands,
    }
}
