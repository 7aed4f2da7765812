//! Round trips between real places: AWS regions in June 2020 and Google Cloud regions, as
//! measured and published with fantoch (Enes et al., "Efficient Replication via Timestamp
//! Stability", EuroSys 2021). Means; single links deviate by 0.1 to 5.6 ms, 1 to 3 % as a rule.

/// Mean round trips between some sites, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    pub name: &'static str,
    pub sites: &'static [&'static str],
    /// `rtt_ms[from][to]`.
    rtt_ms: &'static [&'static [f64]],
}

impl Matrix {
    /// By its name, any case.
    pub fn named(name: &str) -> Option<&'static Matrix> {
        MATRICES.iter().find(|matrix| matrix.name.eq_ignore_ascii_case(name))
    }

    pub fn all() -> &'static [Matrix] {
        MATRICES
    }

    /// The mean round trip that `from` measures to `to`.
    pub fn rtt_ms(&self, from: usize, to: usize) -> Option<f64> {
        self.rtt_ms.get(from)?.get(to).copied()
    }

    /// What an operation of `site` must wait for: the round trip to the farthest of the sites
    /// that make the nearest majority with it.
    pub fn nearest_majority_ms(&self, site: usize) -> Option<f64> {
        let others = self.rtt_ms.get(site)?.iter().enumerate().filter(|(at, _)| *at != site);
        let mut rtts_ms: Vec<f64> = others.map(|(_, rtt_ms)| *rtt_ms).collect();
        rtts_ms.sort_by(f64::total_cmp);
        // Itself and half of the others, rounded up, are a majority.
        rtts_ms.get((self.sites.len() / 2).checked_sub(1)?).copied()
    }
}

const MATRICES: &[Matrix] = &[
    Matrix {
        name: "A3",
        sites: &["us-east-1", "eu-west-1", "ap-northeast-1"],
        rtt_ms: &[&[0.3, 70.5, 152.4], &[70.5, 0.1, 204.4], &[152.4, 204.4, 0.1]],
    },
    Matrix {
        name: "B3",
        sites: &["us-east-1", "us-west-2", "eu-central-1"],
        rtt_ms: &[&[0.3, 72.5, 85.6], &[72.5, 0.3, 157.5], &[85.6, 157.6, 0.1]],
    },
    Matrix {
        name: "C3",
        sites: &["us-east1", "europe-west1", "asia-southeast1"],
        rtt_ms: &[&[0.3, 93.0, 218.0], &[93.0, 0.3, 291.1], &[218.0, 291.1, 0.3]],
    },
    Matrix {
        name: "G3",
        sites: &["eu-west-1", "eu-central-1", "eu-north-1"],
        rtt_ms: &[&[0.1, 23.8, 35.6], &[23.8, 0.1, 20.0], &[35.6, 20.0, 0.1]],
    },
    Matrix {
        name: "D5",
        sites: &["us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-1"],
        rtt_ms: &[
            &[0.3, 72.5, 70.5, 152.4, 235.8],
            &[72.5, 0.3, 127.3, 100.9, 162.7],
            &[70.5, 127.3, 0.1, 204.4, 186.6],
            &[152.4, 100.9, 204.4, 0.1, 77.0],
            &[235.8, 162.7, 186.6, 77.0, 0.2],
        ],
    },
    Matrix {
        name: "E5",
        sites: &["eu-west-1", "us-west-1", "ap-southeast-1", "ca-central-1", "sa-east-1"],
        rtt_ms: &[
            &[0.1, 141.1, 186.6, 72.4, 183.6],
            &[141.2, 0.1, 181.3, 78.4, 190.2],
            &[186.6, 181.3, 0.2, 221.3, 338.1],
            &[72.4, 78.4, 221.3, 0.1, 123.9],
            &[183.6, 190.2, 338.1, 123.9, 0.2],
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_protocol_paper() {
        let bounds = |name: &str| -> Vec<u32> {
            let matrix = Matrix::named(name).unwrap();
            let bound = |site| matrix.nearest_majority_ms(site).unwrap() as u32;
            (0..matrix.sites.len()).map(bound).collect()
        };
        assert_eq!(bounds("a3"), [70, 70, 152]);
        assert_eq!(bounds("B3"), [72, 72, 85]);
        assert_eq!(bounds("C3"), [93, 93, 218]);
        assert_eq!(bounds("G3"), [23, 20, 20]);
        assert_eq!(bounds("D5"), [72, 100, 127, 100, 162]);
        assert_eq!(bounds("E5"), [141, 141, 186, 78, 183]);
        assert_eq!(Matrix::named("X9"), None);
    }

    #[test]
    fn matrices_are_square() {
        for matrix in Matrix::all() {
            let sites = matrix.sites.len();
            assert_eq!(matrix.rtt_ms.len(), sites, "{}", matrix.name);
            assert!(matrix.rtt_ms.iter().all(|row| row.len() == sites), "{}", matrix.name);
        }
    }
}
