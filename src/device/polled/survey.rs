//! A device whose points lie where its `SunSpec` map says: the map is found before anything of it is read, and again
//! after the unit was away, because a new firmware may lay it out anew. Until then no address is believed, and no value
//! that was not read together with the header of its model.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::config::model::{Point, Table};
use crate::config::sunspec::{Map, Placed, Role, SunspecPoint};
use crate::device::effect::Effects;
use crate::device::plan::Block;
use crate::device::polled::Polled;
use crate::device::reading::{BadReason, Reading};
use crate::device::request::{Exception, Response};
use crate::device::sunspec::{Ask, Search, Step};
use crate::device::value::Value;

/// Between two searches of a unit that answers: what it has not now it will not have at once.
const SEARCH_PAUSE: Duration = Duration::from_secs(30);

/// What a unit has, told once and when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapNews {
    /// None: there is none.
    pub map: Option<Map>,
    /// Points that the unit does not have, and where they would be.
    pub missing: Vec<(Arc<str>, SunspecPoint)>,
}

/// `at 40000: models 1, 103; without mppt_1_power (160.1.DCW)`
impl fmt::Display for MapNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(map) = &self.map else { return f.write_str("none at 40000, 50000 or 0") };
        let models: Vec<String> = map.models.iter().map(|placed| placed.number.to_string()).collect();
        write!(f, "at {}: models {}", map.base, models.join(", "))?;
        if !self.missing.is_empty() {
            let missing = self.missing.iter().map(|(name, sunspec)| format!("{name} ({sunspec})"));
            write!(f, "; without {}", missing.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Survey {
    /// As they are configured.
    points: Vec<Point>,
    search: Search,
    /// None: nothing of it is read before a search.
    map: Option<Map>,
    /// By point: the unit does not have it.
    missing: Vec<bool>,
    /// No search before.
    not_before: Instant,
    /// A point was refused where it should be.
    is_doubtful: bool,
    /// What is to be read once the search is over.
    waiting: Vec<usize>,
    told: Option<MapNews>,
}

impl Survey {
    /// None: every point has its address.
    pub(super) fn new(points: &[Point]) -> Option<Box<Self>> {
        points.iter().any(|point| point.sunspec.is_some()).then(|| {
            Box::new(Self {
                points: points.to_vec(),
                search: Search::new(None),
                map: None,
                missing: vec![false; points.len()],
                not_before: Instant::ORIGIN,
                is_doubtful: false,
                waiting: Vec::new(),
                told: None,
            })
        })
    }

    fn is_sunspec(&self, index: usize) -> bool {
        self.points.get(index).is_some_and(|point| point.sunspec.is_some())
    }

    fn is_readable(&self, index: usize) -> bool {
        let is_missing = self.missing.get(index).copied().unwrap_or(false);
        !self.is_sunspec(index) || (self.map.is_some() && !is_missing)
    }

    fn is_hidden(&self, index: usize) -> bool {
        self.points.get(index).is_some_and(Point::is_hidden)
    }

    fn sunspec(&self, index: usize) -> Option<&SunspecPoint> {
        self.points.get(index)?.sunspec.as_deref()
    }

    /// The point that holds the header of the model of this one.
    fn header_of(&self, index: usize) -> Option<usize> {
        let models = &self.sunspec(index).filter(|sunspec| sunspec.role == Role::Named)?.models;
        let is_header = |sunspec: &SunspecPoint| sunspec.role == Role::Header && sunspec.models == *models;
        (0..self.points.len()).find(|other| self.sunspec(*other).is_some_and(is_header))
    }

    fn headers_of(&self, due: &[usize]) -> Vec<usize> {
        let headers = due.iter().filter_map(|index| self.header_of(*index));
        headers.filter(|index| self.is_readable(*index)).collect()
    }

    /// What is to be known before a value is: its header, and its scale factor if the unit has one.
    fn needed_by(&self, index: usize) -> impl Iterator<Item = usize> {
        let header = self.header_of(index);
        let is_there = |scale: &usize| self.is_readable(*scale);
        let scale = self.points.get(index).filter(|_| header.is_some()).and_then(|point| point.scale_from);
        header.into_iter().chain(scale.filter(is_there))
    }

    fn headed(&self, index: usize) -> Option<Placed> {
        let sunspec =
            self.points.get(index)?.sunspec.as_deref().filter(|sunspec| sunspec.role == Role::Header)?;
        self.map.as_ref()?.headed(sunspec)
    }

    fn forget(&mut self, search: Search) {
        (self.map, self.search, self.is_doubtful) = (None, search, false);
    }
}

/// It reads for no point: that is how a search is told from a poll.
fn block_of(ask: Ask) -> Block {
    Block { table: Table::Holding, address: ask.address, count: ask.count, points: Vec::new() }
}

fn is_search(block: &Block) -> bool {
    block.points.is_empty()
}

impl Polled {
    /// The first read of a search, if one is due before these points can be read; they wait for its end. Else those of
    /// them that can be read stay.
    pub(super) fn search_before(&mut self, due: &mut Vec<usize>, now: Instant) -> Option<Block> {
        let is_offline = self.is_offline();
        let survey = self.survey.as_mut()?;
        let is_due = survey.map.is_none() && (is_offline || survey.not_before <= now);
        if is_due && due.iter().any(|index| survey.is_sunspec(*index)) {
            survey.waiting = std::mem::take(due);
            return Some(block_of(survey.search.ask()));
        }
        due.retain(|index| survey.is_readable(*index));
        None
    }

    /// What is read along with the points that are due: the headers of their models.
    pub(super) fn with_headers(&self, due: &mut Vec<usize>) {
        if let Some(survey) = &self.survey {
            due.extend(survey.headers_of(due));
        }
    }

    /// Orders reads so that no value comes before its header and its scale factor. Where that cannot be, both are read
    /// by themselves before.
    pub(super) fn headers_first(&self, blocks: &mut VecDeque<Block>) {
        let Some(survey) = &self.survey else { return };
        blocks
            .make_contiguous()
            .sort_by_key(|block| !block.points.iter().all(|index| survey.is_hidden(*index)));
        let mut seen: Vec<usize> = Vec::new();
        let is_ordered = blocks.iter().all(|block| {
            seen.extend(&block.points);
            block.points.iter().all(|index| survey.needed_by(*index).all(|needed| seen.contains(&needed)))
        });
        if !is_ordered {
            let hidden = blocks.iter().flat_map(|block| &block.points).copied();
            let hidden: Vec<usize> = hidden.filter(|index| survey.is_hidden(*index)).collect();
            for block in self.experience.blocks(&self.settings, &hidden).into_iter().rev() {
                blocks.push_front(block);
            }
        }
    }

    /// Looks at the headers in the answer. True: the map has moved, and is searched for instead of what was to be read.
    pub(super) fn is_moved(
        &mut self,
        block: &Block,
        response: &Response,
        now: Now,
        out: &mut Effects,
    ) -> bool {
        let Some(survey) = &mut self.survey else { return false };
        let is_other = |index: &usize| {
            let expected = survey.headed(*index).map(Placed::header);
            let point = self.settings.points.get(*index);
            let read = point.and_then(|point| block.value_of(point, response, 0).ok());
            expected.is_some_and(|expected| read != Some(Value::Unsigned(expected)))
        };
        if !block.points.iter().any(is_other) {
            return false;
        }
        let rest = self.poll.iter_mut().flat_map(|poll| poll.blocks.drain(..)).flat_map(|block| block.points);
        let points: Vec<usize> = block.points.iter().copied().chain(rest).collect();
        let (of_map, others): (Vec<usize>, Vec<usize>) =
            points.into_iter().partition(|index| survey.is_sunspec(*index));
        let search = Search::new(survey.map.as_ref().map(|map| map.base));
        let is_new = now.instant < survey.not_before;
        survey.forget(search);
        if is_new {
            // It was found a moment ago: no map to be believed.
            self.apply_silence(&of_map, now, out);
            let blocks = self.planned(others);
            if let Some(poll) = &mut self.poll {
                poll.blocks = blocks;
            }
        } else {
            let named =
                of_map.iter().filter(|index| !survey.points.get(**index).is_some_and(Point::is_hidden));
            survey.waiting = named.copied().chain(others).collect();
            let first = block_of(survey.search.ask());
            if let Some(poll) = &mut self.poll {
                poll.blocks.push_front(first);
            }
        }
        self.finish_poll(now, out);
        true
    }

    /// Takes the answer, or the refusal, of a block of a search. False: it is none.
    pub(super) fn handle_survey(
        &mut self,
        block: &Block,
        response: Option<&Response>,
        now: Now,
        out: &mut Effects,
    ) -> bool {
        let Some(survey) = self.survey.as_mut().filter(|_| is_search(block)) else { return false };
        let step = match response {
            Some(Response::Words(words)) => survey.search.handle_words(words),
            _ => survey.search.handle_refused(),
        };
        match step {
            Step::Read(ask) => {
                if let Some(poll) = &mut self.poll {
                    poll.blocks.push_front(block_of(ask));
                }
            }
            Step::Found(map) => self.apply_map(Some(map), now, out),
            Step::NotFound => self.apply_map(None, now, out),
        }
        self.finish_poll(now, out);
        true
    }

    /// The unit keeps silent on a search that it has answered before: it is there, and asked again later. False: it is
    /// no search.
    pub(super) fn handle_survey_silence(&mut self, block: &Block, now: Now, out: &mut Effects) -> bool {
        let Some(survey) = self.survey.as_mut().filter(|_| is_search(block)) else { return false };
        survey.search = survey.search.restarted();
        let waiting = std::mem::take(&mut survey.waiting);
        if self.poll.as_ref().is_some_and(|poll| poll.has_answer) {
            self.apply_silence(&waiting, now, out);
            self.finish_poll(now, out);
        } else {
            self.fail_poll(now, out);
        }
        true
    }

    /// The unit was not heard in a whole poll.
    pub(super) fn forget_map(&mut self) {
        if let Some(survey) = &mut self.survey
            && let Some(map) = &survey.map
        {
            let search = Search::new(Some(map.base));
            survey.forget(search);
            survey.not_before = Instant::ORIGIN;
        }
    }

    /// A point is not where it should be. What a unit never gives is not searched for again and again.
    pub(super) fn doubt_map(&mut self, points: &[usize], exception: Exception) {
        if let Some(survey) = &mut self.survey {
            survey.is_doubtful |=
                exception.is_of_range() && points.iter().any(|index| survey.is_sunspec(*index));
        }
    }

    pub(super) fn end_doubt(&mut self, now: Instant) {
        if let Some(survey) = &mut self.survey
            && survey.is_doubtful
            && survey.not_before <= now
            && let Some(map) = &survey.map
        {
            let search = Search::new(Some(map.base));
            survey.forget(search);
        }
    }

    fn apply_map(&mut self, map: Option<Map>, now: Now, out: &mut Effects) {
        let Some(mut survey) = self.survey.take() else { return };
        survey.search = Search::new(map.as_ref().map(|map| map.base));
        survey.not_before = now.instant + SEARCH_PAUSE;
        survey.is_doubtful = false;
        let mut missing = Vec::new();
        let mut gone = Vec::new();
        for (index, configured) in survey.points.iter().enumerate() {
            let Some(sunspec) = &configured.sunspec else { continue };
            let mut point = configured.clone();
            let is_there = map.as_ref().is_some_and(|map| map.place(&mut point));
            if let Some(is_missing) = survey.missing.get_mut(index) {
                *is_missing = map.is_some() && !is_there;
            }
            // From here on the settings are this unit's own.
            match Arc::make_mut(&mut self.settings).points.get_mut(index) {
                Some(settings) if is_there => *settings = point,
                _ if map.is_some() => gone.push(index),
                _ => {}
            }
            if map.is_some() && !is_there && sunspec.role == Role::Named {
                missing.push((Arc::clone(&configured.name), (**sunspec).clone()));
            }
        }
        survey.map.clone_from(&map);
        let news = MapNews { map, missing };
        if survey.told.as_ref() != Some(&news) {
            survey.told = Some(news.clone());
            out.maps.push((Arc::clone(&self.settings.name), news));
        }
        let waiting = std::mem::take(&mut survey.waiting);
        let (due, unread): (Vec<usize>, Vec<usize>) =
            waiting.into_iter().partition(|index| survey.is_readable(*index));
        let is_without_map = survey.map.is_none();
        self.survey = Some(survey);
        // What the unit had before, and has no more.
        self.apply_silence(&gone, now, out);
        if is_without_map {
            self.errors += 1;
            for index in unread {
                self.voice.apply_reading(index, Reading::bad(BadReason::NoSunspec, now), now, out);
            }
        }
        let blocks = self.planned(due);
        if let Some(poll) = &mut self.poll {
            poll.blocks = blocks;
        }
    }
}
