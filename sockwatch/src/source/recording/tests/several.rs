//! Several files, not all of which are well, or too many to be open at once.

use super::*;

/// A file per event, with these times.
fn files(scratch: &Scratch, times: std::ops::Range<u64>) -> Vec<PathBuf> {
    let mut recorder = scratch.recorder();
    for at_ns in times {
        recorder.take(&[opening(at_ns)], &Tick { now_ns: at_ns, losses: Losses::default() }).unwrap();
    }
    recorder.finish().unwrap();
    scratch.files().iter().map(|file| file.path().to_owned()).collect()
}

/// What is told of them, and what is wrong.
fn played(files: &[PathBuf]) -> (Vec<u64>, Option<String>) {
    let (told, damage) = play(files.iter().map(|file| Reader::open(file).unwrap()).collect());
    (told.into_iter().flatten().collect(), damage)
}

/// From the middle of its batch on it is something else.
fn damage_batch(path: &std::path::Path) {
    let mut reader = Reader::open(path).unwrap();
    let header = usize::try_from(reader.bytes()).unwrap();
    let mut said = Said::default();
    // The first batch has no rows.
    assert!(reader.next(&mut said).unwrap());
    let from = usize::try_from(reader.bytes()).unwrap().max(header);
    let mut bytes = fs::read(path).unwrap();
    bytes[from..from + 4].fill(0xa5);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_file_hides_no_other() {
    let scratch = Scratch::new("damaged");
    let files = files(&scratch, 1..6);
    assert_eq!(played(&files), (vec![1, 2, 3, 4, 5], None));
    damage_batch(&files[1]);
    damage_batch(&files[3]);
    let (told, damage) = played(&files);
    assert_eq!(told, [1, 3, 5]);
    let damage = damage.unwrap();
    for file in [&files[1], &files[3]] {
        assert!(damage.contains(file.to_str().unwrap()) && damage.contains("no message begins there"), "{damage}");
    }
}

#[test]
fn the_damage_of_many_files_is_told_shortly() {
    assert_eq!(damage(&[]), None);
    let files: Vec<_> = (0..MOST_TOLD + 2).map(|number| format!("{number}: cut")).collect();
    assert_eq!(damage(&files[..2]).unwrap(), "0: cut; 1: cut");
    assert!(damage(&files).unwrap().ends_with("4: cut; and 2 more"));
}

#[test]
fn a_file_that_rests_is_read_as_it_was() {
    let scratch = Scratch::new("resting");
    let files = files(&scratch, 1..4);
    let resting = || {
        let mut readers: Vec<_> = files.iter().map(|file| Reader::open(file).unwrap()).collect();
        readers.iter_mut().for_each(Reader::rest);
        readers
    };
    let (told, damage) = play(resting());
    assert_eq!((told.into_iter().flatten().collect::<Vec<_>>(), damage), (vec![1, 2, 3], None));
    let readers = resting();
    fs::copy(&files[0], &files[2]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let (told, damage) = play(readers);
    let damage = damage.unwrap();
    assert_eq!(told, [[1]]);
    assert!(damage.contains("No such file") || damage.contains("cannot be read"), "{damage}");
    assert!(damage.contains("replaced"), "{damage}");
}

/// Files that a rotation makes lead to the lines that were traced, whatever stood in which.
#[test]
fn rotated_files_replayed_are_a_lab_traced() {
    let mut parts = 0;
    for lab in ["slow-accept", "overflow", "time-wait-reuse", "queue-rst"] {
        let scratch = Scratch::new(&format!("rotated-{lab}"));
        let (lab, ended) = Lab::of(&fs::read_to_string(directory().join(lab).with_extension("events")).unwrap());
        let mut recorded = Recorded::new(lab, scratch.recorder());
        let traced = lines(&mut recorded, ended);
        recorded.finish().unwrap();
        let mut files = scratch.files();
        parts += files.len();
        files.iter_mut().for_each(Reader::rest);
        let Opened { mut recording, ended } = Recording::of(files, None);
        assert_eq!(lines(&mut recording, ended), traced);
        assert_eq!(recording.damage(), None);
    }
    assert!(parts > 20, "{parts}");
}
