// The instrumentation script, as a customer's page carries it. Here the gateway serves the shop as well, so its host is
// this one; on a real site it is https://visits.example.com or the like.
var _gt = _gt || [];
_gt.push(['config', {
  dslResource: location.origin + '/server/resources/dsl/domain-model.xml',
  debug: false,
  languageCode: document.documentElement.lang,
  httpEndpoint: location.origin,
  httpsEndpoint: location.origin
}]);
(function (id) {
  if (document.getElementById(id)) return;
  var script = document.createElement('script');
  script.id = id;
  script.src = location.origin + '/tracker.js';
  document.head.appendChild(script);
})('_gt');
