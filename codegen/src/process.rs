//! A traced process (ptrace(2)), in which protection keys are stood in for.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The value of the rights register that the kernel gives a new process: all
/// keys but 0 closed (Linux, `init_pkru`).
const INITIAL_RIGHTS: u32 = 0x5555_5554;

/// The only key there is.
pub const KEY: u32 = 1;

/// Two instructions that a processor without keys does not know (SDM vol. 2).
const RDPKRU: [u8; 3] = [0x0F, 0x01, 0xEE];
const WRPKRU: [u8; 3] = [0x0F, 0x01, 0xEF];

/// Why a process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a breakpoint of its own, which names itself.
    Mark(u32),
    /// It has ended, with this status.
    Exit(i32),
}

/// A child that runs only as it is told to.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: libc::pid_t,
    /// Its rights register.
    pub rights: u32,
}

impl Process {
    /// Starts `program`, stopped before its first instruction.
    ///
    /// # Errors
    ///
    /// The system does not let it be started or traced.
    pub fn start(program: &Path, arguments: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let trace_me = || {
            let nothing = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: takes nothing; makes the parent the tracer.
            check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) })
        };
        // SAFETY: the closure makes one system call, and allocates only for an
        // error.
        let child = unsafe { command.pre_exec(trace_me) }.spawn()?;
        let pid = child.id() as libc::pid_t;
        let mut process = Self { child, pid, rights: INITIAL_RIGHTS };
        process.wait()?;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        // SAFETY: sets options of a stopped child of ours.
        check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options) })?;
        Ok(process)
    }

    /// Whether the rights register lets the process use memory under [`KEY`].
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rights >> (2 * KEY) & 0b11 == 0
    }

    /// Runs it to its next mark, or to its end.
    ///
    /// # Errors
    ///
    /// A signal that it does not expect.
    pub fn run(&mut self) -> io::Result<Stop> {
        let mut signal = 0;
        let mut answer = None;
        loop {
            // SAFETY: lets a stopped child of ours run to its next call.
            check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, self.pid, 0, signal) })?;
            signal = 0;
            let status = self.wait()?;
            if !libc::WIFSTOPPED(status) {
                return Ok(Stop::Exit(libc::WEXITSTATUS(status)));
            }
            match libc::WSTOPSIG(status) {
                it if it == libc::SIGTRAP | 0x80 => answer = self.system_call(answer)?,
                libc::SIGILL => {
                    if !self.step_over_rights()? {
                        return Err(io::Error::other("an unknown instruction"));
                    }
                }
                libc::SIGTRAP => return Ok(Stop::Mark(self.registers()?.rdi as u32)),
                other => signal = other,
            }
        }
    }

    /// Stands in for the calls about keys. `answer` is what the call that is
    /// being left is to return.
    fn system_call(&self, answer: Option<u64>) -> io::Result<Option<u64>> {
        let mut registers = self.registers()?;
        if let Some(answer) = answer {
            registers.rax = answer;
            self.set_registers(&registers)?;
            return Ok(None);
        }
        // ENOSYS in RAX tells an entry from an exit.
        if registers.rax as i64 != -i64::from(libc::ENOSYS) {
            return Ok(None);
        }
        let (number, answer) = match registers.orig_rax as libc::c_long {
            libc::SYS_pkey_alloc => (u64::MAX, Some(u64::from(KEY))),
            libc::SYS_pkey_free => (u64::MAX, Some(0)),
            libc::SYS_pkey_mprotect => (libc::SYS_mprotect as u64, None),
            _ => return Ok(None),
        };
        registers.orig_rax = number;
        self.set_registers(&registers)?;
        Ok(answer)
    }

    /// Executes one instruction.
    ///
    /// # Errors
    ///
    /// It did not stop right after it.
    pub fn step(&mut self) -> io::Result<()> {
        // SAFETY: lets a stopped child of ours run one instruction.
        check(unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0) })?;
        let status = self.wait()?;
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP {
            return Ok(());
        }
        Err(io::Error::other(format!("stopped with status {status:#x} at a step")))
    }

    /// Does what RDPKRU or WRPKRU would, if that is what comes next.
    ///
    /// # Errors
    ///
    /// The process cannot be read or changed.
    pub fn step_over_rights(&mut self) -> io::Result<bool> {
        let mut registers = self.registers()?;
        let mut bytes = [0; 3];
        self.read(registers.rip, &mut bytes)?;
        match bytes {
            RDPKRU => (registers.rax, registers.rdx) = (u64::from(self.rights), 0),
            WRPKRU => self.rights = registers.rax as u32,
            _ => return Ok(false),
        }
        registers.rip += 3;
        self.set_registers(&registers)?;
        Ok(true)
    }

    /// Its registers.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: all zeros are a value of the structure.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: writes one such structure.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0, &raw mut registers) })?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        // SAFETY: reads one such structure.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.pid, 0, &raw const *registers) })
    }

    /// Reads its memory, as far as that is mapped; returns how far.
    ///
    /// # Errors
    ///
    /// Nothing is mapped there.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let there = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
        // SAFETY: writes to `bytes` only.
        let read =
            unsafe { libc::process_vm_readv(self.pid, &raw const here, 1, &raw const there, 1, 0) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Its mappings, as /proc/…/maps has them.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn maps(&self) -> io::Result<String> {
        std::fs::read_to_string(format!("/proc/{}/maps", self.pid))
    }

    fn wait(&mut self) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: writes the status of a child of ours.
        check(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }.into())?;
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, and then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check(status: libc::c_long) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
