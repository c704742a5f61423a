//! Who may do what: one place that is asked before any handler runs, and that refuses what it was not told to allow.

mod clients;
mod keys;
mod rates;
mod secret;
mod tls;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{AUTHORIZATION, FORWARDED, HeaderName};
use http::{HeaderMap, request};

pub(crate) use self::clients::{Client, Crowd, Place};
pub use self::keys::KeysError;
use self::keys::{Keys, Known};
use self::rates::Rates;
pub use self::secret::{NoRandomness, Secret};
pub(crate) use self::tls::Tls;
pub use self::tls::TlsError;
use crate::config::NetConfig;
use crate::failure::{Code, Failure};
use crate::models::unknown_model;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What it takes to be let in to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: whoever balances load must know whether the server lives.
    Nothing,
    /// To look at the server and at the models that one may see.
    Look,
    /// To run a model.
    Infer,
    /// To change what is served.
    Admin,
    /// To change the server, or to look into it, which shows all models and concerns them.
    Whole,
}

impl Need {
    /// Whether an administrator alone may do it.
    pub(crate) const fn is_admin(self) -> bool {
        matches!(self, Need::Admin | Need::Whole)
    }
}

/// Who may come in.
#[derive(Debug)]
pub(crate) struct Access {
    /// Where there are none, everybody may come in who reaches the server.
    keys: Option<Keys>,
    rates: Option<Rates>,
    /// Whether the server listens where only this machine reaches it.
    private: bool,
}

/// What a caller may do. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    access: Arc<Access>,
    holder: Holder,
    from: IpAddr,
}

#[derive(Clone, Debug)]
enum Holder {
    /// Somebody without a key where one is needed.
    Stranger,
    /// Somebody where there are no keys.
    Anybody { admin: bool },
    /// Whoever has this key.
    Key(Arc<Known>),
}

/// Why somebody is a stranger.
#[derive(Clone, Copy)]
enum NoKey {
    Missing,
    Malformed,
    Unknown,
}

impl Access {
    /// The rules of a server that listens where only this machine reaches it, or where others do.
    ///
    /// # Errors
    /// When the keys cannot be used.
    pub(crate) fn new(config: &NetConfig, private: bool) -> Result<Arc<Access>, KeysError> {
        Ok(Arc::new(Access {
            keys: Keys::new(config)?,
            rates: config.max_requests_per_second.map(Rates::new),
            private,
        }))
    }

    /// Whether callers need a key.
    pub(crate) fn keyed(&self) -> bool {
        self.keys.is_some()
    }

    /// Decides about a request by its head and the address it came from. `model` is the one that its path names.
    ///
    /// # Errors
    /// `unauthenticated`, `forbidden`, `unknown_model` for a model that the caller may not see, and `overloaded` where the caller sends too
    /// many.
    pub(crate) fn authorise(
        self: &Arc<Access>,
        head: &request::Parts,
        from: IpAddr,
        need: Need,
        model: Option<&str>,
    ) -> Result<Grant, Failure> {
        let holder = self.holder(&head.headers, from);
        if need == Need::Nothing {
            return Ok(self.grant(holder.unwrap_or(Holder::Stranger), from));
        }
        self.pace(holder.as_ref().ok(), from)?;
        let grant = self.grant(holder.map_err(unauthenticated)?, from);
        if need.is_admin() && !grant.is_admin() {
            return Err(self.not_admin());
        }
        if need == Need::Whole {
            grant.check_whole()?;
        }
        grant.check(model)?;
        Ok(grant)
    }

    /// Takes the keys that the file of keys has now, if it has changed. Blocks as long as reading a small file does.
    pub(crate) fn refresh(&self) {
        if let Some(keys) = &self.keys {
            keys.refresh();
        }
    }

    fn grant(self: &Arc<Access>, holder: Holder, from: IpAddr) -> Grant {
        Grant {
            access: Arc::clone(self),
            holder,
            from,
        }
    }

    fn holder(&self, headers: &HeaderMap, from: IpAddr) -> Result<Holder, NoKey> {
        let Some(keys) = &self.keys else {
            let admin = self.private && is_of_this_machine(headers, from);
            return Ok(Holder::Anybody { admin });
        };
        let known = keys.find(bearer(headers)?).ok_or(NoKey::Unknown)?;
        Ok(Holder::Key(known))
    }

    /// Strangers count by their address, so that they use up nobody's rate but their own.
    fn pace(&self, holder: Option<&Holder>, from: IpAddr) -> Result<(), Failure> {
        let Some(rates) = &self.rates else {
            return Ok(());
        };
        let client = match holder {
            Some(Holder::Key(known)) => Client::Key(known.number),
            _ => Client::at(from),
        };
        rates.take(client, Instant::now()).map_err(|wait| {
            Failure::new(
                Code::Overloaded,
                "this client sends more requests than it may in a second; send fewer, or wait",
            )
            .retry_after(wait)
        })
    }

    fn not_admin(&self) -> Failure {
        Failure::new(
            Code::Forbidden,
            match self.keys {
                Some(_) => "this takes a key with the scope admin; send one, or ask the operator",
                None => {
                    "this is allowed to programs of the server's own machine only, and only where it listens on a loopback address; elsewhere it takes a key with the scope admin, and the server has no keys"
                }
            },
        )
    }
}

impl Grant {
    /// Whether the caller may know that there is a model of this name.
    pub(crate) fn sees(&self, model: &str) -> bool {
        match &self.holder {
            Holder::Stranger => false,
            Holder::Anybody { .. } => true,
            Holder::Key(known) => known.sees(model),
        }
    }

    /// Whether there is no model that the caller may not see.
    pub(crate) fn sees_everything(&self) -> bool {
        match &self.holder {
            Holder::Stranger => false,
            Holder::Anybody { .. } => true,
            Holder::Key(known) => known.key.models.is_none(),
        }
    }

    /// Says of a model that the caller may not see what is said of one that does not exist.
    ///
    /// # Errors
    /// `unknown_model`.
    pub(crate) fn check(&self, model: Option<&str>) -> Result<(), Failure> {
        match model {
            Some(name) if !self.sees(name) => Err(unknown_model(name)),
            _ => Ok(()),
        }
    }

    /// Refuses a caller who may not see all models what concerns them all.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn check_whole(&self) -> Result<(), Failure> {
        if self.sees_everything() {
            return Ok(());
        }
        Err(Failure::new(
            Code::Forbidden,
            "this concerns all models, and the key is limited to some; it takes one with the scope admin and without models",
        ))
    }

    /// Asks for one more request, on a connection that carries many behind one head.
    ///
    /// # Errors
    /// `unauthenticated` where the key was taken back, and `overloaded` where the caller sends too many.
    pub(crate) fn again(&self) -> Result<(), Failure> {
        if let (Holder::Key(known), Some(keys)) = (&self.holder, &self.access.keys)
            && !keys.has(known)
        {
            return Err(unauthenticated(NoKey::Unknown));
        }
        self.access.pace(Some(&self.holder), self.from)
    }

    /// Whether the caller may change the server.
    pub(crate) fn is_admin(&self) -> bool {
        match &self.holder {
            Holder::Stranger => false,
            Holder::Anybody { admin } => *admin,
            Holder::Key(known) => known.is_admin(),
        }
    }

    /// What the log calls the caller. Never the key.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.holder {
            Holder::Key(known) => Some(&known.key.name),
            _ => None,
        }
    }

    /// On whose behalf a request waits in a queue, which callers with different keys share evenly.
    pub(crate) fn number(&self) -> Option<u64> {
        match &self.holder {
            Holder::Key(known) => Some(known.number),
            _ => None,
        }
    }
}

/// The key that was sent, which is said in one way only: `Authorization: Bearer KEY`, once.
fn bearer(headers: &HeaderMap) -> Result<&[u8], NoKey> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (first, second) = (values.next(), values.next());
    let value = first.ok_or(NoKey::Missing)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7).ok_or(NoKey::Malformed)?;
    if second.is_some() || !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(NoKey::Malformed);
    }
    Ok(key.trim_ascii())
}

/// Whether a program of this machine sent the request itself. A proxy on this machine passes on what others send, and says so.
fn is_of_this_machine(headers: &HeaderMap, from: IpAddr) -> bool {
    let forwarded = headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR);
    from.to_canonical().is_loopback() && !forwarded
}

fn unauthenticated(why: NoKey) -> Failure {
    Failure::new(
        Code::Unauthenticated,
        match why {
            NoKey::Missing => "this takes a key; send it as Authorization: Bearer KEY",
            NoKey::Malformed => "Authorization is not as it must be; send it once, as Bearer KEY",
            NoKey::Unknown => {
                "the key is none that the server knows; send one that the operator gave you"
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config::{Key, Scope};

    const FAR: &str = "10.0.0.9";
    const NEAR: &str = "127.0.0.1";

    struct Keyed {
        access: Arc<Access>,
        infer: Secret,
        one_model: Secret,
        admin: Secret,
        /// Of one model only.
        limited: Secret,
    }

    fn keyed(adjust: impl FnOnce(&mut NetConfig)) -> Keyed {
        let [infer, one_model, admin, limited] = [(); 4].map(|()| Secret::generate().unwrap());
        let key = |name: &str, secret: &Secret, scope, models| Key {
            name: name.to_owned(),
            digest: secret.digest(),
            scopes: vec![scope],
            models,
        };
        let mut config = NetConfig {
            keys: vec![
                key("infer", &infer, Scope::Infer, None),
                key("one", &one_model, Scope::Infer, Some(vec!["a".to_owned()])),
                key("admin", &admin, Scope::Admin, None),
                key(
                    "limited",
                    &limited,
                    Scope::Admin,
                    Some(vec!["a".to_owned()]),
                ),
            ],
            ..NetConfig::default()
        };
        adjust(&mut config);
        Keyed {
            access: Access::new(&config, false).unwrap(),
            infer,
            one_model,
            admin,
            limited,
        }
    }

    fn head(fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn ask(
        access: &Arc<Access>,
        fields: &[(&str, &str)],
        need: Need,
        model: Option<&str>,
    ) -> Answer {
        let from = FAR.parse().unwrap();
        let answer = access.authorise(&head(fields), from, need, model);
        answer.map_err(|failure| failure.code)
    }

    type Answer = Result<Grant, Code>;

    #[test]
    fn each_key_opens_what_it_is_for() {
        use Code::{Forbidden, Unauthenticated, UnknownModel};
        let Keyed {
            access,
            infer,
            one_model,
            admin,
            limited,
        } = keyed(|_| ());
        let table = [
            (Some(&infer), Need::Look, None, None),
            (Some(&infer), Need::Infer, Some("a"), None),
            (Some(&infer), Need::Admin, None, Some(Forbidden)),
            (Some(&one_model), Need::Look, None, None),
            (Some(&one_model), Need::Infer, Some("a"), None),
            (Some(&one_model), Need::Infer, Some("b"), Some(UnknownModel)),
            (Some(&one_model), Need::Look, Some("b"), Some(UnknownModel)),
            (Some(&one_model), Need::Admin, Some("b"), Some(Forbidden)),
            (Some(&admin), Need::Look, None, None),
            (Some(&admin), Need::Infer, Some("b"), None),
            (Some(&admin), Need::Admin, Some("b"), None),
            (Some(&admin), Need::Whole, None, None),
            (Some(&limited), Need::Admin, Some("a"), None),
            (Some(&limited), Need::Admin, Some("b"), Some(UnknownModel)),
            (Some(&limited), Need::Whole, None, Some(Forbidden)),
            (Some(&infer), Need::Whole, None, Some(Forbidden)),
            (None, Need::Nothing, None, None),
            (None, Need::Look, None, Some(Unauthenticated)),
            (None, Need::Infer, Some("a"), Some(Unauthenticated)),
            (None, Need::Admin, Some("a"), Some(Unauthenticated)),
            (None, Need::Whole, None, Some(Unauthenticated)),
        ];
        for (secret, need, model, expected) in table {
            let value = secret.map(|secret| format!("Bearer {}", secret.reveal()));
            let fields = value.iter().map(|value| ("authorization", value.as_str()));
            let fields: Vec<_> = fields.collect();
            let answer = ask(&access, &fields, need, model);
            assert_eq!(answer.err(), expected, "{need:?} {model:?}");
        }
    }

    #[test]
    fn a_key_is_sent_in_one_way() {
        let Keyed { access, infer, .. } = keyed(|_| ());
        let key = infer.reveal();
        let bearer = |scheme: &str| format!("{scheme}{key}");
        let [plain, lower, spaces] = ["Bearer ", "bearer ", "Bearer   "].map(bearer);
        for value in [&plain, &lower, &spaces] {
            let answer = ask(&access, &[("authorization", value)], Need::Look, None);
            assert!(answer.is_ok(), "{value}");
        }
        let [basic, none, colon] = ["Basic ", "", "Bearer:"].map(bearer);
        let wrong: [&[(&str, &str)]; 8] = [
            &[],
            &[("authorization", "")],
            &[("authorization", "Bearer ")],
            &[("authorization", &basic)],
            &[("authorization", &none)],
            &[("authorization", &colon)],
            &[("authorization", &plain), ("authorization", &plain)],
            &[("x-api-key", key)],
        ];
        for fields in wrong {
            let answer = ask(&access, fields, Need::Look, None);
            assert_eq!(answer.err(), Some(Code::Unauthenticated), "{fields:?}");
        }
    }

    #[test]
    fn a_grant_says_who_it_is_and_never_the_key() {
        let Keyed {
            access,
            one_model: key,
            ..
        } = keyed(|_| ());
        let value = format!("Bearer {}", key.reveal());
        let grant = ask(&access, &[("authorization", &value)], Need::Look, None).unwrap();
        assert_eq!((grant.name(), grant.is_admin()), (Some("one"), false));
        assert!(grant.number().is_some());
        assert_eq!([grant.sees("a"), grant.sees("b")], [true, false]);
        let shown = format!("{access:?} {grant:?}");
        let digest = key.digest().to_string();
        assert!(!shown.contains(key.reveal()) && !shown.contains(&digest[7..]));
        let stranger = ask(&access, &[], Need::Nothing, None).unwrap();
        assert_eq!((stranger.sees("a"), stranger.is_admin()), (false, false));
    }

    #[test]
    fn without_keys_only_this_machine_changes_the_server() {
        let forwarded = ("forwarded", "for=10.0.0.9");
        let forwarded_for = ("x-forwarded-for", "10.0.0.9");
        // Whether the server is private, who asks, and whether it may change the server.
        let table = [
            (true, NEAR, None, true),
            (true, "::1", None, true),
            (true, "::ffff:127.0.0.1", None, true),
            (true, NEAR, Some(forwarded), false),
            (true, NEAR, Some(forwarded_for), false),
            (false, NEAR, None, false),
            (false, FAR, None, false),
        ];
        for (private, from, field, expected) in table {
            let access = Access::new(&NetConfig::default(), private).unwrap();
            let from = from.parse().unwrap();
            let ask = |need| access.authorise(&head(field.as_slice()), from, need, Some("m"));
            assert!(ask(Need::Infer).is_ok());
            let admin = ask(Need::Admin);
            assert_eq!(admin.is_ok(), expected, "{private} {from} {field:?}");
            let code = admin.err().map(|failure| failure.code);
            assert!(matches!(code, None | Some(Code::Forbidden)));
        }
    }

    #[test]
    fn a_rate_is_each_clients_own() {
        let Keyed {
            access,
            infer,
            admin,
            ..
        } = keyed(|config| config.max_requests_per_second = std::num::NonZeroUsize::new(2));
        let ask = |secret: Option<&Secret>, need| {
            let value = secret.map(|secret| format!("Bearer {}", secret.reveal()));
            let fields: Vec<_> = value
                .iter()
                .map(|value| ("authorization", value.as_str()))
                .collect();
            ask(&access, &fields, need, None).err()
        };
        let overloaded = Some(Code::Overloaded);
        let unauthenticated = Some(Code::Unauthenticated);
        let first = [(); 3].map(|()| ask(Some(&infer), Need::Look));
        assert_eq!(first, [None, None, overloaded]);
        let strangers = [(); 3].map(|()| ask(None, Need::Look));
        assert_eq!(strangers, [unauthenticated, unauthenticated, overloaded]);
        assert_eq!(ask(Some(&admin), Need::Look), None);
        assert_eq!(ask(None, Need::Nothing), None);
    }
}
