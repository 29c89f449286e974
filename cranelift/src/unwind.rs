//! How to unwind through a function: the entries of an `.eh_frame` section, with
//! absolute addresses.

use cranelift_codegen::CompiledCode;
use cranelift_codegen::gimli::LittleEndian;
use cranelift_codegen::gimli::write::{Address, EhFrame, EndianVec, FrameTable};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::UnwindInfo;

use crate::error::Error;

/// A CIE and an FDE for the function entered at `entry`; empty if the target has no
/// such information.
pub(crate) fn eh_frame(
    code: &CompiledCode,
    isa: &dyn TargetIsa,
    entry: usize,
) -> Result<Vec<u8>, Error> {
    let information = code.create_unwind_info(isa).map_err(Error::Unwind)?;
    let (Some(UnwindInfo::SystemV(information)), Some(cie)) =
        (information, isa.create_systemv_cie())
    else {
        return Ok(Vec::new());
    };
    let mut table = FrameTable::default();
    let cie = table.add_cie(cie);
    table.add_fde(cie, information.to_fde(Address::Constant(entry as u64)));
    let mut section = EhFrame(EndianVec::new(LittleEndian));
    table.write_eh_frame(&mut section).map_err(Error::UnwindEncoding)?;
    Ok(section.0.into_vec())
}
