//! The customer portal behind the gate: it has no sign-in of its own and believes what the gate
//! says in `x-wicketgate-*`. It isn't even careful about tenants: the gate's policies are.

use std::sync::Arc;

use askama::Template;
use http::header::{HeaderValue, LOCATION};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::serve::{self, Handler, Reply};

/// Most orders that are kept, so that nobody fills the memory by clicking.
const MOST_ORDERS: usize = 50;

#[derive(Clone, Debug, Default)]
pub struct Portal {
    /// What was ordered while the demo runs, per customer.
    extra: Arc<Mutex<Vec<(&'static str, Order)>>>,
}

#[derive(Clone, Debug)]
struct Order {
    number: String,
    what: &'static str,
    state: &'static str,
    amount: &'static str,
}

struct Customer {
    key: &'static str,
    name: &'static str,
    orders: [(&'static str, &'static str, &'static str, &'static str); 4],
    documents: [(&'static str, &'static str); 3],
}

const CUSTOMERS: [Customer; 2] = [
    Customer {
        key: "acme",
        name: "Acme Waterworks",
        orders: [
            ("A-2041", "Impeller set, 250 mm", "Shipped", "€ 4,180"),
            ("A-2037", "Shaft seals, 12 pieces", "In production", "€ 960"),
            ("A-2029", "Pump P-7 overhaul", "Delivered", "€ 18,400"),
            ("A-2018", "Bearing kit", "Delivered", "€ 1,245"),
        ],
        documents: [
            ("Service contract 2026", "PDF, 1.2 MB"),
            ("Test certificate, pump P-7", "PDF, 340 KB"),
            ("Spare parts list", "Spreadsheet, 88 KB"),
        ],
    },
    Customer {
        key: "globex",
        name: "Globex Chemicals",
        orders: [
            ("G-0877", "Dosing pump, titanium", "In production", "€ 32,900"),
            ("G-0871", "Magnetic coupling", "Shipped", "€ 6,750"),
            ("G-0860", "Vibration sensors, 8 pieces", "Delivered", "€ 2,320"),
            ("G-0855", "Commissioning, line 4", "Delivered", "€ 11,000"),
        ],
        documents: [
            ("Confidential: recipe limits, line 4", "PDF, 2.0 MB"),
            ("Frame agreement", "PDF, 910 KB"),
            ("Vibration report, October", "PDF, 4.4 MB"),
        ],
    },
];

#[derive(Template)]
#[template(path = "demo/portal.html")]
struct Page<'a> {
    who: Who<'a>,
    view: View<'a>,
}

/// Who the gate says is asking.
struct Who<'a> {
    user: &'a str,
    email: &'a str,
    tenant: &'a str,
}

enum View<'a> {
    Home,
    Orders { customer: &'a Customer, orders: Vec<Order> },
    Documents { customer: &'a Customer },
    Missing,
}

impl Handler for Portal {
    async fn handle(self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let (first, second, third) = (segments.next(), segments.next(), segments.next());
        let customer = CUSTOMERS.iter().find(|customer| Some(customer.key) == first);
        let view = match (first, customer, second, third) {
            (None, ..) => View::Home,
            (_, Some(customer), None | Some("orders"), None) => {
                if request.method() == Method::POST {
                    return self.order(customer);
                }
                View::Orders { customer, orders: self.orders(customer) }
            }
            (_, Some(customer), Some("documents"), None) => View::Documents { customer },
            _ => View::Missing,
        };
        let status = match view {
            View::Missing => StatusCode::NOT_FOUND,
            _ => StatusCode::OK,
        };
        let said = |name| serve::header(&request, name).unwrap_or_default();
        let who = Who {
            user: said("x-wicketgate-user"),
            email: said("x-wicketgate-email"),
            tenant: said("x-wicketgate-tenant"),
        };
        serve::html(status, Page { who, view }.render().unwrap_or_default())
    }
}

impl Portal {
    fn orders(&self, customer: &Customer) -> Vec<Order> {
        let extra = self.extra.lock();
        let ordered = extra.iter().rev().filter(|(key, _)| *key == customer.key);
        let fixed = customer.orders.iter().map(|&(number, what, state, amount)| Order {
            number: number.to_owned(),
            what,
            state,
            amount,
        });
        ordered.map(|(_, order)| order.clone()).chain(fixed).collect()
    }

    /// Orders a bearing kit.
    fn order(&self, customer: &Customer) -> Reply {
        let mut extra = self.extra.lock();
        if extra.len() < MOST_ORDERS {
            let number = format!("N-{:04}", 3001 + extra.len());
            let order =
                Order { number, what: "Bearing kit", state: "Received", amount: "€ 1,245" };
            extra.push((customer.key, order));
        }
        let mut reply = serve::html(StatusCode::SEE_OTHER, String::new());
        if let Ok(location) = HeaderValue::try_from(format!("/{}/orders", customer.key)) {
            reply.headers_mut().insert(LOCATION, location);
        }
        reply
    }
}
