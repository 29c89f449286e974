//! Installing one function: reserve, relocate for its address, write, publish.

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::ir::{ExternalName, Function, LibCall, UserExternalName, UserFuncName};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{Context, FinalizedMachReloc, FinalizedRelocTarget};
use jit_arena::{Arena, CodeLayout, Executor, Reservation, Symbol, ThreadHandle};

use crate::error::Error;
use crate::libcalls::libcall;
use crate::relocation::{apply, is_branch, needs_word};
use crate::unwind::eh_frame;

/// Bytes of a word behind the code that holds an address.
const WORD: usize = 8;

/// What a function refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Name<'a> {
    /// A name of the client's.
    User(&'a UserExternalName),
    /// A name as test cases have it, such as `%add`, without the `%`.
    TestCase(&'a [u8]),
    /// A function of the C library. Where the client gives no address, that of
    /// [`libcall`](fn@libcall) is taken.
    LibCall(LibCall),
}

/// Installs functions that Cranelift has compiled into an arena.
///
/// # Examples
///
/// See [the package](crate).
#[derive(Clone, Copy)]
pub struct Installer<'a> {
    arena: &'a Arena,
    isa: &'a dyn TargetIsa,
    unwinds: bool,
}

impl<'a> Installer<'a> {
    /// An installer of code that was compiled for `isa`, which is this machine.
    #[must_use]
    pub fn new(arena: &'a Arena, isa: &'a dyn TargetIsa) -> Self {
        Self { arena, isa, unwinds: false }
    }

    /// Whether functions are published with their unwind information, so that the
    /// arena's tools (`jit_arena_tools::Unwind` and others) hear of it. Default: no.
    /// Functions are compiled with it if the flag `unwind_info` is on.
    #[must_use]
    pub fn unwind_information(mut self, unwinds: bool) -> Self {
        self.unwinds = unwinds;
        self
    }

    /// Installs the function that `context` has compiled, as `name` for the arena's
    /// tools. `resolve` gives the addresses of what it calls and refers to; calls
    /// reach any address, by trampolines where it is far. The function's own name is
    /// its own address.
    ///
    /// The executor is called with the signature that the function has, through
    /// [`Entry::cast`](jit_arena::Entry::cast) and a guard. It does not keep what it
    /// calls alive: other executors stay as long as the client sees to it.
    ///
    /// Progress as [`install`](ThreadHandle::install), and
    /// [`call_target`](Arena::call_target) for each call.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn install(
        &self,
        thread: &mut ThreadHandle,
        name: &str,
        context: &Context,
        resolve: &dyn Fn(&Name<'_>) -> Option<usize>,
    ) -> Result<Executor, Error> {
        let compiled = context.compiled_code().ok_or(Error::NotCompiled)?;
        let mut code = compiled.buffer.data().to_vec();
        let relocations = compiled.buffer.relocs();
        let words = words(relocations)?;
        let layout = CodeLayout::new(code.len())
            .align(compiled.buffer.alignment as usize)
            .data(words.len() * WORD, WORD);
        let mut place = thread.reserve(layout)?;
        let names = Names { function: &context.func, entry: place.entry(), resolve };
        for relocation in relocations {
            self.relocate(&mut code, &place, relocation, &words, &names)?;
        }
        let data: Vec<u8> = words
            .iter()
            .map(|name| names.address(name).map(usize::to_ne_bytes))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        let mut scope = thread.write();
        scope.write_at(&mut place, 0, &code)?;
        if !data.is_empty() {
            let offset = place.data() - place.entry();
            scope.write_at(&mut place, offset, &data)?;
        }
        drop(scope);
        let unwind =
            if self.unwinds { eh_frame(compiled, self.isa, place.entry())? } else { Vec::new() };
        // SAFETY: Cranelift's own account of the code, for the address it is at.
        let symbol = unsafe { Symbol::new(name).eh_frame(&unwind) };
        thread.publish_named(place, &symbol).map_err(|error| Error::Publish(error.kind))
    }

    fn relocate(
        &self,
        code: &mut [u8],
        place: &Reservation,
        relocation: &FinalizedMachReloc,
        words: &[&ExternalName],
        names: &Names<'_>,
    ) -> Result<(), Error> {
        let (entry, offset) = (place.entry(), relocation.offset as usize);
        let kind = relocation.kind;
        let to = match &relocation.target {
            FinalizedRelocTarget::Func(offset) => entry + *offset as usize,
            FinalizedRelocTarget::ExternalName(name) if needs_word(kind) => {
                let at = words.iter().position(|word| *word == name);
                place.data() + WORD * at.ok_or(Error::Unsupported(kind))?
            }
            FinalizedRelocTarget::ExternalName(name) if is_branch(kind, code, offset) => {
                // The distance counts from behind the branch, if not from its start.
                let from = if kind == Reloc::Arm64Call { offset } else { offset + 4 };
                let from = entry + from.min(code.len() - 1);
                self.arena.call_target(from, names.address(name)?)?
            }
            FinalizedRelocTarget::ExternalName(name) => names.address(name)?,
        };
        apply(kind, code, entry, offset, to, relocation.addend)
    }
}

impl core::fmt::Debug for Installer<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Installer")
            .field("arena", self.arena)
            .field("isa", &self.isa.name())
            .field("unwinds", &self.unwinds)
            .finish()
    }
}

/// The names whose addresses the function loads out of words, each once.
fn words(relocations: &[FinalizedMachReloc]) -> Result<Vec<&ExternalName>, Error> {
    let mut words = Vec::new();
    for relocation in relocations.iter().filter(|relocation| needs_word(relocation.kind)) {
        let FinalizedRelocTarget::ExternalName(name) = &relocation.target else {
            return Err(Error::Unsupported(relocation.kind));
        };
        if !words.contains(&name) {
            words.push(name);
        }
    }
    Ok(words)
}

/// What the names in a function mean.
struct Names<'a> {
    function: &'a Function,
    entry: usize,
    resolve: &'a dyn Fn(&Name<'_>) -> Option<usize>,
}

impl Names<'_> {
    fn address(&self, name: &ExternalName) -> Result<usize, Error> {
        let own = &self.function.name;
        let found = match name {
            ExternalName::User(name) => {
                let name = &self.function.params.user_named_funcs()[*name];
                let is_own = own.get_user() == Some(name);
                if is_own { Some(self.entry) } else { (self.resolve)(&Name::User(name)) }
            }
            ExternalName::TestCase(name) => {
                let is_own = matches!(own, UserFuncName::Testcase(own) if own == name);
                if is_own { Some(self.entry) } else { (self.resolve)(&Name::TestCase(name.raw())) }
            }
            ExternalName::LibCall(call) => {
                (self.resolve)(&Name::LibCall(*call)).or_else(|| libcall(*call))
            }
            ExternalName::KnownSymbol(_) => None,
        };
        let text = || name.display(Some(&self.function.params)).to_string();
        found.ok_or_else(|| Error::Unresolved(text()))
    }
}
