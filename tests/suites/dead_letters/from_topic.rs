//! Tests the replay of dead letters in a topic. A consumer group remembers which of them are done.

use super::*;

/// A first replay takes half of the dead letters, some of which still fail, and a second one the rest: each record is
/// written once, and no replay sees a dead letter again that an earlier one finished.
#[tokio::test(flavor = "multi_thread")]
async fn letters_in_a_topic_are_replayed_once() -> Result<()> {
    let mut trial = Trial::new("topic-replay", 3, POISONED)?;
    let kafka = trial.bed.kafka.client();
    let dead = unique("dead");
    kafka.create_topic_with(&dead, 2, &[("retention.ms", "-1")])?;
    trial.config = trial.config.set("dead_letters.topic", dead.as_str());
    // The topic may hold records that are not dead letters.
    kafka.produce(&dead, (0..3).map(|_| Message::new("not a letter").header("kafka.source", "t/0")))?;
    let produced = trial.produce(if long() { 50_000 } else { 3000 })?;
    let poison = (0..produced.len() as u64).filter(|n| is_poison(*n)).count();
    trial.run_through()?;
    let before = trial.stored().await?;
    assert_eq!(before.len(), produced.len() - poison);

    let half = poison / 2;
    for (plugin, write, code, expected) in [
        (POISONED, false, 0, format!("{poison} dead letters: 0 would be written, 0 dropped, {poison} still fail")),
        (HALF_MENDED, false, 0, format!("{poison} dead letters: {half} would be written")),
        (
            HALF_MENDED,
            true,
            1,
            format!("{poison} dead letters: {half} written, 0 dropped, {half} still failing; 3 records beside"),
        ),
        (HALF_MENDED, true, 1, format!("{half} dead letters: 0 written, 0 dropped, {half} still failing")),
        (MENDED, false, 0, format!("{half} dead letters: {half} would be written, 0 dropped, 0 still fail")),
        (MENDED, true, 0, format!("{half} dead letters: {half} written, 0 dropped, 0 still failing")),
        (MENDED, true, 0, "0 dead letters: 0 written".to_owned()),
    ] {
        trial.mend(plugin)?;
        let stored = trial.stored().await?;
        let (ended, told) = trial.replay(if write { &["--write"] } else { &[] })?;
        assert!(ended == Some(code) && told.contains(&expected), "{expected:?}, {ended:?}: {told}");
        assert!(write || trial.stored().await? == stored, "a dry run changes nothing");
    }
    compare(&produced, &trial.stored().await?)?.exact()?;
    Ok(())
}
