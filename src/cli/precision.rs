//! `--precision` on the device of a run: checks, the measurement of `fastest`, and a warning about slow bf16.

use crate::{
    backend::{self, Device, Precision},
    base::{Error, Result},
    measure::factors,
    train::{Flags, Numbers},
};

use super::{printer::Printer, run_flags::PlaceFlags, settings_file::SettingsFile};

/// Checks that the device supports a requested precision.
///
/// # Errors
/// bf16 is requested, and the device computes in f32.
pub(super) fn check_precision(given: Option<Numbers>, device: Device) -> Result<()> {
    if given == Some(Numbers::Bf16) && Numbers::Bf16.on(device) == Precision::F32 {
        return Err(Error::user(format!("--precision bf16 has no effect: {device} computes in f32"))
            .hint("omit it, or choose another --device"));
    }
    Ok(())
}

/// Replaces `--precision fastest` (a flag or a line of the settings file) with the faster precision on the run's
/// device. The result is stored in the settings of the run, so that the run is resumed and evaluated in the same
/// arithmetic.
///
/// # Errors
/// The thread pool cannot be created.
pub(super) fn choose_fastest(
    flags: &mut Flags,
    file: &SettingsFile,
    place: &PlaceFlags,
    printer: &Printer,
) -> Result<()> {
    if flags.precision.or(file.settings.precision) != Some(Numbers::Fastest) {
        return Ok(());
    }
    let (device, threads) = place.over(&file.place);
    flags.precision = Some(match backend::choose(device).0 {
        Device::Cpu | Device::Auto => {
            let ratio = super::thread_pool(threads)?.install(factors::bf16_over_f32);
            printer.say(format_args!(
                "measured  a dense layer in bf16 takes {ratio:.2} times as long as in f32 on this processor"
            ));
            fastest_of(ratio)
        }
        Device::Reference => Numbers::F32,
        Device::Cuda(_) | Device::Emulator | Device::Ptx(_) => Numbers::Bf16,
    });
    Ok(())
}

/// Selects bf16 only if it saves more than a tenth of the time of a dense layer. f32 is more precise, and the load of
/// the machine changes the ratio by about as much.
fn fastest_of(ratio: f64) -> Numbers {
    if ratio < 0.9 { Numbers::Bf16 } else { Numbers::F32 }
}

/// Warns if bf16 is requested on a processor that computes bf16 products more slowly than f32 products.
pub(super) fn warn_of_slow_bf16(printer: &Printer, device: Device, precision: Precision, pool: &rayon::ThreadPool) {
    if precision == Precision::F32 || !matches!(device, Device::Cpu) {
        return;
    }
    let ratio = pool.install(factors::bf16_over_f32);
    // A smaller difference may come from the load of the machine.
    if ratio > 1.1 {
        printer.warn(format_args!(
            "bf16 is {ratio:.1} times as slow as f32 on this processor (measured on a dense layer); use --precision f32"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_must_be_clearly_faster_to_be_chosen() {
        assert_eq!(fastest_of(0.6), Numbers::Bf16);
        assert_eq!(fastest_of(0.95), Numbers::F32);
        assert_eq!(fastest_of(1.4), Numbers::F32);
    }

    #[test]
    fn what_a_device_computes_in_is_not_measured() {
        let (file, printer) = (SettingsFile::default(), Printer { quiet: true, ..Printer::default() });
        for (device, expected) in [(Device::Emulator, Numbers::Bf16), (Device::Reference, Numbers::F32)] {
            let place = PlaceFlags { device: Some(device), threads: None };
            let mut flags = Flags { precision: Some(Numbers::Fastest), ..Flags::default() };
            choose_fastest(&mut flags, &file, &place, &printer).unwrap();
            assert_eq!(flags.precision, Some(expected));
            flags.precision = Some(Numbers::Auto);
            choose_fastest(&mut flags, &file, &place, &printer).unwrap();
            assert_eq!(flags.precision, Some(Numbers::Auto));
        }
    }
}
