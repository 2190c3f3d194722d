//! The description itself: a table of the routes, and the types that they take.

use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Paths, Ref, Required,
    ResponseBuilder, Type,
};
use utoipa::{PartialSchema, ToSchema};

use super::anthropic::{AnthropicError, CountTokensRequest, MessagesRequest};
use super::openai::{
    AdapterRequest, ChatRequest, CompactRequest, CompletionRequest, DetokenizeRequest, EmbeddingsRequest, Message,
    ModelRequest, OpenAiError, ResponsesRequest, Sampling, TemplateRequest, TokenizeRequest,
};

/// What a route takes and gives.
struct Route {
    method: HttpMethod,
    /// The path, behind `/v1` and without where `is_aliased`.
    path: &'static str,
    is_aliased: bool,
    summary: &'static str,
    /// The name of what it takes.
    body: Option<&'static str>,
    gives: Gives,
}

#[derive(Clone, Copy, PartialEq)]
enum Gives {
    Json,
    /// JSON, or events if the request says `stream`.
    Stream,
    Text,
}

/// All routes but the files of the page.
fn all() -> Vec<Route> {
    use Gives::{Json, Stream, Text};
    use HttpMethod::{Delete, Get, Post};
    let route =
        |is_aliased, method, path, summary, body, gives| Route { method, path, is_aliased, summary, body, gives };
    let twice = |method, path, summary, body, gives| route(true, method, path, summary, body, gives);
    let once = |method, path, summary, body, gives| route(false, method, path, summary, body, gives);
    vec![
        twice(Post, "/chat/completions", "Answer a chat.", Some("ChatRequest"), Stream),
        twice(Post, "/completions", "Go on with a text.", Some("CompletionRequest"), Stream),
        twice(Post, "/responses", "Answer, as a list of items.", Some("ResponsesRequest"), Stream),
        twice(Get, "/responses/{id}", "An answer that was kept.", None, Json),
        twice(Delete, "/responses/{id}", "Forget an answer.", None, Json),
        twice(Post, "/responses/compact", "Make a summary of a conversation.", Some("CompactRequest"), Json),
        twice(Post, "/embeddings", "Vectors of texts.", Some("EmbeddingsRequest"), Json),
        twice(Get, "/models", "The models that there are.", None, Json),
        twice(Get, "/models/{name}", "One of them.", None, Json),
        twice(Post, "/tokenize", "Text to token ids.", Some("TokenizeRequest"), Json),
        twice(Post, "/detokenize", "Token ids to text.", Some("DetokenizeRequest"), Json),
        twice(Post, "/apply-template", "Messages to the prompt that the model reads.", Some("TemplateRequest"), Json),
        once(Post, "/v1/models/load", "Load a model, and answer when it is there.", Some("ModelRequest"), Json),
        once(Post, "/v1/models/unload", "Let go of a model that nobody uses.", Some("ModelRequest"), Json),
        once(Get, "/v1/adapters", "The adapters in memory.", None, Json),
        once(Post, "/v1/adapters", "Read an adapter.", Some("AdapterRequest"), Json),
        once(Delete, "/v1/adapters/{name}", "Forget an adapter; requests that have it go on with it.", None, Json),
        once(Post, "/v1/messages", "Answer, as Anthropic's API does.", Some("MessagesRequest"), Stream),
        once(Post, "/v1/messages/count_tokens", "Count the tokens of a prompt.", Some("CountTokensRequest"), Json),
        once(Get, "/health", "Whether the server is alive; needs no key.", None, Json),
        once(Get, "/ready", "Whether the next request should come here; needs no key.", None, Json),
        once(Get, "/metrics", "Numbers for Prometheus.", None, Text),
        once(Get, "/openapi.json", "This description.", None, Json),
    ]
}

/// The description, of this version of the server.
pub(super) fn document(version: &str) -> OpenApi {
    let mut paths = Paths::new();
    for route in all() {
        let prefixes: &[&str] = if route.is_aliased { &["/v1", ""] } else { &[""] };
        for prefix in prefixes {
            let path = format!("{prefix}{}", route.path);
            paths.add_path_operation(&path, vec![route.method.clone()], operation(&route, &path));
        }
    }
    let info = InfoBuilder::new()
        .title("mlxlm")
        .description(Some("Language models on MLX, behind the APIs of OpenAI and Anthropic."))
        .version(version);
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components())).build()
}

fn operation(route: &Route, path: &str) -> OperationBuilder {
    let error = if path.starts_with("/v1/messages") { "AnthropicError" } else { "OpenAiError" };
    let content = |name| ContentBuilder::new().schema(Some(Ref::from_schema_name(name))).build();
    let anything =
        || ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::Object).build())).build();
    let mut answer = ResponseBuilder::new().description("The answer.");
    if route.gives != Gives::Text {
        answer = answer.content("application/json", anything());
    }
    if route.gives != Gives::Json {
        let kind = if route.gives == Gives::Text { "text/plain" } else { "text/event-stream" };
        let text = ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String).build())).build();
        answer = answer.content(kind, text);
    }
    let failed =
        ResponseBuilder::new().description("Why there is no answer.").content("application/json", content(error));
    let mut operation = OperationBuilder::new()
        .summary(Some(route.summary))
        .response("200", answer.build())
        .response("default", failed.build());
    if let Some(name) = route.body {
        let body = RequestBodyBuilder::new().required(Some(Required::True)).content("application/json", content(name));
        operation = operation.request_body(Some(body.build()));
    }
    if let Some((_, name)) = path.split_once('{') {
        let schema = ObjectBuilder::new().schema_type(Type::String).build();
        let parameter = ParameterBuilder::new()
            .name(name.trim_end_matches('}'))
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(schema));
        operation = operation.parameter(parameter);
    }
    operation
}

fn components() -> utoipa::openapi::Components {
    fn add<T: ToSchema + PartialSchema>(components: ComponentsBuilder) -> ComponentsBuilder {
        components.schema(T::name(), T::schema())
    }
    let list = [
        add::<ChatRequest>,
        add::<Message>,
        add::<Sampling>,
        add::<CompletionRequest>,
        add::<ResponsesRequest>,
        add::<CompactRequest>,
        add::<EmbeddingsRequest>,
        add::<TokenizeRequest>,
        add::<DetokenizeRequest>,
        add::<TemplateRequest>,
        add::<MessagesRequest>,
        add::<CountTokensRequest>,
        add::<ModelRequest>,
        add::<AdapterRequest>,
        add::<OpenAiError>,
        add::<AnthropicError>,
    ];
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = list.into_iter().fold(ComponentsBuilder::new(), |components, add| add(components));
    components.security_scheme("bearer", bearer).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_referred_to_is_there() {
        let document = serde_json::to_value(document("1.2.3")).unwrap();
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        assert_eq!(document["info"]["version"], "1.2.3");
    }
}
