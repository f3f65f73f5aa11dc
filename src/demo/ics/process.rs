//! A tank that is filled by a pump and emptied by its users: enough physics to be worth watching.

use serde::Serialize;

/// One look at the process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Seconds since the start.
    pub time: f64,
    /// Of the tank, in percent.
    pub level: f64,
    /// Wanted level, in percent.
    pub setpoint: f64,
    /// Pump speed, in revolutions a minute.
    pub pump: f64,
    /// Whether the pump is switched on; it takes seconds to stand.
    pub running: bool,
    /// What flows in and out, in litres a second.
    pub inflow: f64,
    pub outflow: f64,
}

/// Levels that may be asked for, in percent.
pub const SETPOINTS: std::ops::RangeInclusive<f64> = 10.0..=90.0;

const FULL_SPEED: f64 = 1480.0;
/// Litres a second at full speed.
const FULL_FLOW: f64 = 24.0;
/// Litres in one percent of the tank.
const LITRES_PER_PERCENT: f64 = 12.0;

/// The tank with its controller (proportional and integral).
#[derive(Clone, Debug)]
pub struct Process {
    time: f64,
    level: f64,
    setpoint: f64,
    speed: f64,
    running: bool,
    integral: f64,
}

impl Default for Process {
    fn default() -> Self {
        Self { time: 0.0, level: 58.0, setpoint: 62.0, speed: 0.5, running: true, integral: 0.5 }
    }
}

impl Process {
    /// Moves the set-point. False, and nothing changes, when it is out of range.
    pub fn set(&mut self, setpoint: f64) -> bool {
        let allowed = SETPOINTS.contains(&setpoint);
        if allowed {
            self.setpoint = setpoint;
        }
        allowed
    }

    /// Switches the pump on or off.
    pub fn switch(&mut self, on: bool) {
        self.running = on;
    }

    /// Lets `seconds` pass.
    pub fn step(&mut self, seconds: f64) {
        self.time += seconds;
        let error = self.setpoint - self.level;
        let wanted = if self.running { 0.06 * error + self.integral } else { 0.0 };
        // Anti-windup: the integral only grows while the pump can still follow.
        if self.running && (0.0..=1.0).contains(&wanted) {
            self.integral = (self.integral + 0.0015 * error * seconds).clamp(0.0, 1.0);
        }
        // A pump does not jump: it takes about two seconds to follow.
        self.speed += (wanted.clamp(0.0, 1.0) - self.speed) * (seconds / 2.0).min(1.0);
        let net = self.inflow() - self.outflow();
        self.level = (self.level + net * seconds / LITRES_PER_PERCENT).clamp(0.0, 100.0);
    }

    pub fn reading(&self) -> Reading {
        Reading {
            time: round(self.time),
            level: round(self.level),
            setpoint: round(self.setpoint),
            pump: (self.speed * FULL_SPEED).round(),
            running: self.running,
            inflow: round(self.inflow()),
            outflow: round(self.outflow()),
        }
    }

    fn inflow(&self) -> f64 {
        self.speed * FULL_FLOW
    }

    /// Demand swings slowly, with a faster ripple on top; less comes out of an empty tank.
    fn outflow(&self) -> f64 {
        let demand = 11.0 + 3.0 * (self.time / 17.0).sin() + 0.8 * (self.time / 2.3).sin();
        demand * (self.level / 5.0).min(1.0)
    }
}

/// To two digits after the point.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_the_set_point() {
        let mut process = Process::default();
        for target in [80.0, 25.0] {
            assert!(process.set(target));
            for _ in 0..6000 {
                process.step(0.1);
            }
            let reading = process.reading();
            assert!((reading.level - target).abs() < 6.0, "{reading:?}");
            assert!((0.0..=1480.0).contains(&reading.pump), "{reading:?}");
        }
    }

    #[test]
    fn a_pump_that_is_switched_off_comes_to_a_stand_and_starts_again() {
        let mut process = Process::default();
        let wait = |process: &mut Process| (0..300).for_each(|_| process.step(0.1));
        process.switch(false);
        wait(&mut process);
        assert!(process.reading().pump < 1.0, "{:?}", process.reading());
        process.switch(true);
        wait(&mut process);
        assert!(process.reading().pump > 100.0, "{:?}", process.reading());
    }

    #[test]
    fn a_set_point_out_of_range_changes_nothing() {
        let mut process = Process::default();
        let before = process.reading();
        for wrong in [9.9, 90.1, f64::NAN, f64::INFINITY, -1.0] {
            assert!(!process.set(wrong), "{wrong}");
        }
        assert_eq!(process.reading(), before);
    }
}
