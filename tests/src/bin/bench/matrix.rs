//! Round trips between places, as others have measured them.

/// Mean round trips of AWS (June 2020) and GCP regions, as published with fantoch, the
/// framework of Tempo (Enes et al., EuroSys 2021).
pub struct Matrix {
    pub name: &'static str,
    pub zones: &'static [&'static str],
    /// Milliseconds for each pair: 1-2, 1-3, .., 2-3, ..
    pub round_trips_ms: &'static [f64],
}

pub const MATRICES: [Matrix; 7] = [
    // Also what README and docs/SEMANTICS.md quote.
    Matrix { name: "near", zones: &["z1", "z2", "z3"], round_trips_ms: &[20.0, 80.0, 90.0] },
    Matrix {
        name: "A3",
        zones: &["us-east-1", "eu-west-1", "ap-northeast-1"],
        round_trips_ms: &[70.5, 152.4, 204.4],
    },
    Matrix {
        name: "B3",
        zones: &["us-east-1", "us-west-2", "eu-central-1"],
        round_trips_ms: &[72.5, 85.6, 157.5],
    },
    Matrix {
        name: "C3",
        zones: &["us-east1", "europe-west1", "asia-southeast1"],
        round_trips_ms: &[93.0, 218.0, 291.1],
    },
    Matrix {
        name: "G3",
        zones: &["eu-west-1", "eu-central-1", "eu-north-1"],
        round_trips_ms: &[23.8, 35.6, 20.0],
    },
    Matrix {
        name: "D5",
        zones: &["us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-1"],
        round_trips_ms: &[72.5, 70.5, 152.4, 235.8, 127.3, 100.9, 162.7, 204.4, 186.6, 77.0],
    },
    Matrix {
        name: "E5",
        zones: &["eu-west-1", "us-west-1", "ap-southeast-1", "ca-central-1", "sa-east-1"],
        round_trips_ms: &[141.1, 186.6, 72.4, 183.6, 181.3, 78.4, 190.2, 221.3, 338.1, 123.9],
    },
];

impl Matrix {
    /// The round trip between two zones; 0 within one.
    fn between(&self, a: usize, b: usize) -> f64 {
        let (low, high) = (a.min(b), a.max(b));
        if low == high {
            return 0.0;
        }
        let before: usize = (0..low).map(|zone| self.zones.len() - 1 - zone).sum();
        self.round_trips_ms[before + high - low - 1]
    }

    /// The round trip of a zone to its nearest majority of the `voters`, itself included: no
    /// agreement can be faster. As many must answer as make a majority of *all* zones.
    pub fn bound_ms(&self, zone: usize, living: impl Fn(usize) -> bool) -> f64 {
        let zones = 0..self.zones.len();
        let mut round_trips: Vec<f64> =
            zones.filter(|other| living(*other)).map(|other| self.between(zone, other)).collect();
        round_trips.sort_by(f64::total_cmp);
        round_trips[self.zones.len() / 2]
    }
}
